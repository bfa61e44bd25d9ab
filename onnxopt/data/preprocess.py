"""How images become the input of a model: ``preprocess.toml``, and what the model's shape says where it is silent.

Keys:
    size: Shorter side (integer), or ``[height, width]``.
    resize_mode: ``"shorter"`` keeps the aspect ratio and makes the shorter side ``size`` (with ``[height, width]``:
        covers it); ``"exact"`` stretches to ``size``; ``"letterbox"`` fits into ``size`` and pads with grey 114.
    resize: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"lanczos"``.
    crop: Side, or ``[height, width]``, cut from the centre.
    colour: ``"RGB"``, ``"BGR"`` or ``"GRAY"``.
    scale: Factor on the 8-bit values; 1/255 if absent (1 for integer inputs).
    mean, std: ``(x * scale - mean) / std``; one number, or one per channel in the order of ``colour``.
    layout: ``"NCHW"`` or ``"NHWC"``.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, cast, get_args

from onnxopt.core.query import TensorSpec
from onnxopt.errors import DataError, UsageError, nearest

__all__ = ["Colour", "Layout", "Preprocess", "Resize", "ResizeMode", "complete", "read_preprocess"]

Colour = Literal["RGB", "BGR", "GRAY"]
Layout = Literal["NCHW", "NHWC"]
Resize = Literal["bilinear", "bicubic", "nearest", "lanczos"]
ResizeMode = Literal["shorter", "exact", "letterbox"]


@dataclass(frozen=True)
class Preprocess:
    """The keys of ``preprocess.toml``; ``None`` is what :func:`complete` takes from the model."""

    size: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout | None = None
    colour: Colour | None = None
    scale: float | None = None
    resize: Resize = "bilinear"
    resize_mode: ResizeMode = "shorter"

    def __str__(self) -> str:
        """All settings on one line, equal for equal settings."""
        return json.dumps({key: value for key, value in asdict(self).items() if value not in (None, ())})


def read_preprocess(path: Path) -> Preprocess:
    """The settings in the TOML file ``path``.

    Raises:
        DataError: There is no such file.
        UsageError: It is no TOML, or a key or value is not known.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read the preprocessing: {error.strerror}", where=str(path), fix="check the path of --preprocess"
        ) from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"not a TOML file: {error}", where=str(path), fix="write lines such as: size = 256") from error
    known = [field.name for field in fields(Preprocess)]
    for key in table:
        if key not in known:
            raise UsageError(f"unknown key {key!r}", where=str(path), fix=nearest(key, known))
    values = {
        key: _PARSE[key](value, f"{path}, key {key!r}") for key, value in cast(Mapping[str, object], table).items()
    }
    return replace(Preprocess(), **values)


def complete(settings: Preprocess | None, spec: TensorSpec, where: str) -> Preprocess:
    """``settings`` with what they leave open taken from the shape and dtype of the input ``spec``.

    Raises:
        DataError: The input is no image, or neither the settings nor its shape give a size.
        UsageError: ``mean`` or ``std`` have not one number per channel.
    """
    given = settings or Preprocess()
    shape = spec.shape if spec.shape is not None else (None,) * 4
    if len(shape) not in (3, 4):
        raise DataError(
            f"images cannot feed the input {spec}", where=where, fix="give .npz files with one array per input"
        )
    layout = given.layout or _layout(shape)
    channels, height, width = shape[-3:] if layout == "NCHW" else (shape[-1], *shape[-3:-1])
    if isinstance(channels, int) and channels not in (1, 3):
        raise DataError(
            f"images have 1 or 3 channels, the input {spec} has {channels}",
            where=where,
            fix="give .npz files, or the right layout in preprocess.toml",
        )
    colour = given.colour or ("GRAY" if channels == 1 else "RGB")
    for key, numbers in (("mean", given.mean), ("std", given.std)):
        if len(numbers) not in (0, 1, 1 if colour == "GRAY" else 3):
            raise UsageError(
                f"{key} has {len(numbers)} numbers for {colour} images",
                where=f"preprocess.toml, key {key!r}",
                fix="give one number, or one per channel",
            )
    size, crop = given.size, given.crop
    if isinstance(height, int) and isinstance(width, int):
        if size is None and crop is None:
            size = (height, width)
        if size is not None and crop is None and given.resize_mode == "shorter":
            crop = (height, width)
    elif settings is None:
        raise DataError(
            f"the input {spec} does not say how large the images are",
            where=where,
            fix="give --preprocess with a file that has at least a size, as: size = [224, 224]",
        )
    is_integer = spec.dtype is not None and spec.dtype.kind in "iu"
    scale = given.scale if given.scale is not None else (1.0 if is_integer else 1 / 255)
    return replace(given, size=size, crop=crop, layout=layout, colour=colour, scale=scale)


def _layout(shape: tuple[int | str | None, ...]) -> Layout:
    return "NHWC" if shape[-1] in (1, 3) and shape[-3] not in (1, 3) else "NCHW"


def _side(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(value, "a positive integer, or [height, width]", where)
    return value


def _size(value: object, where: str) -> int | tuple[int, int]:
    if not isinstance(value, list):
        return _side(value, where)
    items = cast(list[object], value)
    sides = [_side(side, where) for side in items]
    if len(sides) != 2:
        raise _wrong(items, "[height, width]", where)
    return sides[0], sides[1]


def _crop(value: object, where: str) -> tuple[int, int]:
    size = _size(value, where)
    return (size, size) if isinstance(size, int) else size


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(value, "a number", where)
    return float(value)


def _positive(value: object, where: str) -> float:
    number = _number(value, where)
    if number <= 0:
        raise _wrong(value, "a number above 0", where)
    return number


def _each(parse: Callable[[object, str], float]) -> Callable[[object, str], tuple[float, ...]]:
    def numbers(value: object, where: str) -> tuple[float, ...]:
        items = cast(list[object], value) if isinstance(value, list) else [value]
        if len(items) not in (1, 3):
            raise _wrong(items, "one number, or one per channel", where)
        return tuple(parse(item, where) for item in items)

    return numbers


def _one_of(choices: tuple[str, ...]) -> Callable[[object, str], str]:
    def choice(value: object, where: str) -> str:
        if value not in choices:
            raise UsageError(f"unknown value {value!r}", where=where, fix=nearest(str(value), choices))
        return str(value)

    return choice


def _wrong(value: object, expected: str, where: str) -> UsageError:
    return UsageError(f"expected {expected}, found {value!r}", where=where, fix="correct the value")


_PARSE: Mapping[str, Callable[[object, str], object]] = {
    "size": _size,
    "crop": _crop,
    "mean": _each(_number),
    "std": _each(_positive),
    "layout": _one_of(get_args(Layout)),
    "colour": _one_of(get_args(Colour)),
    "scale": _positive,
    "resize": _one_of(get_args(Resize)),
    "resize_mode": _one_of(get_args(ResizeMode)),
}
