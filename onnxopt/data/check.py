"""Whether arrays fit the inputs of a model: names, dtypes, shapes (when a source is opened) and values (when read).

Casts that keep the values are made silently: between floating-point types, and between integer types (bool included)
as long as every value survives. An integer array for a floating-point input is refused: pixels or tokens that were
never normalised are the most common wrong calibration data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.data.dataset import Array
from onnxopt.errors import DataError, nearest

__all__ = [
    "Shape",
    "fit",
    "require_dtype",
    "require_labels",
    "require_names",
    "require_shape",
    "require_tensors",
    "shape_text",
]

Shape = tuple[int | str | None, ...]
"""Expected dimensions: a size, or a symbol or ``None`` for any size."""


def require_tensors(specs: Sequence[TensorSpec], where: str) -> None:
    """Nothing, if the model has at least one input and all its inputs are tensors.

    Raises:
        DataError: There is no input to feed, or one is a sequence, map or optional.
    """
    if not specs:
        raise DataError(
            "there is nothing to feed: the model has no inputs",
            where=where,
            fix="leave the data out, or give a model with inputs",
        )
    for spec in specs:
        if spec.dtype is None:
            raise DataError(
                f"input {spec.name!r} is not a tensor (a sequence, map or optional value), and arrays cannot feed it",
                where=where,
                fix="export the model with tensor inputs only",
            )


def require_names(found: Iterable[str], specs: Sequence[TensorSpec], where: str) -> None:
    """Nothing, if ``found`` are exactly the names of the inputs.

    Raises:
        DataError: An input has no array, or an array has no input.
    """
    names, wanted = list(found), [spec.name for spec in specs]
    missing = [name for name in wanted if name not in names]
    extra = [name for name in names if name not in wanted]
    both = f"expected {_listed(wanted)}; found {_listed(names)}"
    if missing:
        hint = f": {nearest(missing[0], extra)}" if get_close_matches(missing[0], extra, cutoff=0.5) else ""
        raise DataError(
            f"no array for input {_listed(missing)} ({both})",
            where=where,
            fix=f"name the arrays as the model's inputs{hint}",
        )
    if extra:
        raise DataError(
            f"array {_listed(extra)} is not an input of the model ({both})",
            where=where,
            fix=f"remove it or rename it ({nearest(extra[0], wanted)}); labels are named with --labels",
        )


def require_dtype(found: np.dtype[np.generic], spec: TensorSpec, where: str) -> None:
    """Nothing, if an array of dtype ``found`` can feed ``spec`` without a doubtful cast.

    Raises:
        DataError: It cannot.
    """
    wanted = spec.dtype
    if wanted is None or found == wanted or (_is_float(found) and _is_float(wanted)):
        return
    if (_is_integer(found) and _is_integer(wanted)) or (wanted.kind == "U" and found.kind in "UO"):
        return
    if found.kind == "V" and _is_extension(wanted) and found.itemsize == wanted.itemsize:
        return  # numpy stores bfloat16 and its like as raw bytes
    fix = f"store it as {wanted.name}"
    if _is_float(wanted) and _is_integer(found):
        fix = f"scale and normalise it as in training, then store it as {wanted.name}: no silent conversion is made"
    raise DataError(f"input {spec.name!r}: expected {wanted.name}, found {found.name}", where=where, fix=fix)


def require_shape(found: tuple[int, ...], expected: Shape | None, name: str, where: str) -> None:
    """Nothing, if ``found`` has the rank and the fixed sizes of ``expected``.

    Raises:
        DataError: The rank or a fixed size differs, or there is no entry on the first axis.
    """
    if found and found[0] == 0 and (not expected or expected[0] != 0):
        raise DataError(
            f"input {name!r} is empty: found {shape_text(found)}", where=where, fix="give at least one sample"
        )
    if expected is None or _matches(found, expected):
        return
    raise DataError(
        f"input {name!r}: expected {shape_text(expected)}, found {shape_text(found)}",
        where=where,
        fix=_shape_hint(found, expected),
    )


def require_labels(found: tuple[int, ...], inputs: Sequence[tuple[int, ...]], where: str) -> None:
    """Nothing, if labels of shape ``found`` can belong to a call with ``inputs`` of these shapes.

    The batch is the first axis, or the second where time comes first (ONNX recurrent layers).

    Raises:
        DataError: There is another number of labels.
    """
    batches = {size for shape in inputs for size in shape[:2]}
    if batches and (found[0] if found else 1) not in batches:
        raise DataError(
            f"labels {shape_text(found)} do not match the inputs {', '.join(map(shape_text, inputs))}",
            where=where,
            fix="give one label a row of the batch",
        )


def fit(feeds: Mapping[str, Array], specs: Sequence[TensorSpec], where: str) -> dict[str, Array]:
    """The arrays of one call in the order and dtype of the inputs.

    Args:
        feeds: Input name -> array of the input's full shape, batch axis included.
        specs: The inputs of the model.
        where: File and sample, for messages.

    Raises:
        DataError: A name, dtype, shape or value does not fit.
    """
    require_names(feeds, specs, where)
    fitted: dict[str, Array] = {}
    for spec in specs:
        array = feeds[spec.name]
        require_dtype(array.dtype, spec, where)
        require_shape(array.shape, spec.shape, spec.name, where)
        fitted[spec.name] = _cast(array, spec, where)
    return fitted


def shape_text(shape: Shape) -> str:
    """``shape`` as in ``(N, 3, 224, 224)``; ``?`` for an unknown size."""
    entries = ["?" if size is None else str(size) for size in shape]
    return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"


def _cast(array: Array, spec: TensorSpec, where: str) -> Array:
    wanted = spec.dtype
    if wanted is None:
        return array
    where = f"{where}, input {spec.name!r}"
    if wanted.kind == "U":
        return _strings(array, where)
    if array.dtype.kind == "V" and _is_extension(wanted) and array.dtype != wanted:
        array = np.ascontiguousarray(array).view(wanted).reshape(array.shape)
    if _is_float(array.dtype):
        _require_finite(array, where)
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
    if _is_float(wanted):
        if not np.isfinite(cast).all():
            raise DataError(
                f"a value is too large for {wanted.name}", where=where, fix="scale the data as the model expects it"
            )
    elif not np.array_equal(cast.astype(array.dtype), array) or not np.array_equal(np.less(cast, 0), np.less(array, 0)):
        raise DataError(
            f"a value of the {array.dtype.name} array does not fit into {wanted.name}",
            where=where,
            fix=f"store values that {wanted.name} can hold",
        )
    return cast


def _strings(array: Array, where: str) -> Array:
    if array.dtype.kind == "O" and not all(isinstance(item, str) for item in array.flat):
        raise DataError("expected strings, found other objects", where=where, fix="store an array of str")
    return array.astype(np.str_)


def _require_finite(array: Array, where: str) -> None:
    finite = np.isfinite(array)
    if finite.all():
        return
    first = tuple(int(i) for i in np.argwhere(~finite)[0])
    kind = "NaN" if np.isnan(array[first]) else "infinity"
    raise DataError(
        f"{kind} in the data, first at index {first}; {int((~finite).sum())} of {array.size} values are not finite",
        where=where,
        fix="remove the sample or repair the step that made it",
    )


def _matches(found: Sequence[int], expected: Shape) -> bool:
    sizes = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(not isinstance(e, int) or e == f for f, e in sizes)


def _shape_hint(found: tuple[int, ...], expected: Shape) -> str:
    rank = len(found)
    if rank == len(expected) and rank >= 3:
        head = tuple(range(rank - 3))
        for tail, layouts in (((2, 0, 1), "NHWC, the model takes NCHW"), ((1, 2, 0), "NCHW, the model takes NHWC")):
            axes = head + tuple(rank - 3 + axis for axis in tail)
            if _matches([found[axis] for axis in axes], expected):
                return f"the data look like {layouts}: use array.transpose{axes} (images: layout in preprocess.toml)"
    if rank + 1 == len(expected) and _matches(found, expected[1:]):
        return "add the first axis: array[None]"
    return "give arrays of the expected shape, or a model with dynamic dimensions"


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("float", "bfloat"))


def _is_integer(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind in "biu" or dtype.name.startswith(("int", "uint"))


def _is_extension(dtype: np.dtype[np.generic]) -> bool:
    """Whether ``dtype`` is one that numpy itself does not know, as bfloat16."""
    return dtype.type.__module__ != "numpy"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
