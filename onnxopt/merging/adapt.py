"""What a member does to a shared input first, where it was trained on another preprocessing: in numpy and as nodes.

The order is fixed: resize, reverse the channels, ``(x * scale - mean) / std``, transpose, cast to the member's type.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.query import TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError, UsageError, nearest

__all__ = ["Adapter", "read_adapter"]

KEYS = ("scale", "mean", "std", "layout", "colour", "size")


@dataclass(frozen=True)
class Adapter:
    """A member's own preprocessing of a shared input.

    Attributes:
        scale: Factor on the values.
        mean: Taken off after that: one number, or one a channel in the member's order of channels.
        std: Then divided by.
        layout: The layout that the member takes, where it is not that of the shared input.
        colour: ``"BGR"`` (or ``"RGB"``): the member has its channels in the other order.
        size: Height and width that the member takes.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NCHW", "NHWC"] | None = None
    colour: Literal["RGB", "BGR"] | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        numbers = (self.scale, *self.mean, *self.std)
        if not all(map(math.isfinite, numbers)) or 0 in self.std or not self.scale:
            raise UsageError(
                "scale and std must be finite and not 0, mean must be finite",
                where="--preprocess",
                fix="for instance scale=0.00392157,mean=0.5,std=0.25",
            )
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"no image has the size {self.size}", where="--preprocess", fix="for instance size=32x32")

    def axis(self, spec: TensorSpec) -> int:
        """The channel axis of the shared input.

        Args:
            spec: The member's input.
        """
        own = {"NCHW": 1, "NHWC": 3}.get(self.layout or "")
        if own is not None:
            return 4 - own
        shape, count = spec.shape or (), max(len(self.mean), len(self.std), 1)
        if len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4, count):
            return 3
        return 1 if len(shape) > 1 else 0

    def check(self, spec: TensorSpec, where: str) -> None:
        """Nothing, when the input of the member can take this.

        Raises:
            ModelError: It is no image, or has another number of channels.
        """
        rank = None if spec.shape is None else len(spec.shape)
        if rank is None or (rank != 4 and (self.layout or self.size or self.colour)):
            raise ModelError(
                f"layout, colour and size are for images (4 dimensions), and the input is {spec}",
                where=where,
                fix="leave them out of --preprocess",
            )
        counts = {len(numbers) for numbers in (self.mean, self.std) if len(numbers) > 1}
        own = None if spec.shape is None else spec.shape[_moved(self.axis(spec), self.layout)]
        if len(counts) > 1 or (counts and isinstance(own, int) and counts != {own}):
            raise ModelError(
                f"mean and std have {' and '.join(map(str, sorted(counts)))} numbers, and the input is {spec}",
                where=where,
                fix="give one number, or one a channel",
            )

    def shared(self, spec: TensorSpec) -> TensorSpec:
        """The shared input that this makes the member's input ``spec`` of."""
        shape = list(spec.shape or ())
        if len(shape) == 4:
            order = _permutation(self.layout, inverse=True)
            shape = [shape[i] for i in order] if order else shape
            if self.size is not None:
                for axis, symbol in zip(_spatial(self.axis(spec)), ("height", "width"), strict=True):
                    shape[axis] = symbol
        dtype = spec.dtype if self == Adapter(layout=self.layout) else np.dtype(np.float32)
        return TensorSpec(spec.name, dtype, tuple(shape) if spec.shape is not None else None)

    def compute(self, array: Array, spec: TensorSpec) -> Array:
        """The member's input: what the nodes of ``draw`` compute."""
        axis, found = self.axis(spec), array.astype(np.float32)
        if self.size is not None:
            for place, size in zip(_spatial(axis), self.size, strict=True):
                found = _resized(found, place, size)
        if self.colour is not None:
            found = np.flip(found, axis)
        if self.scale != 1:
            found = found * np.float32(self.scale)
        for numbers, op in ((self.mean, np.subtract), (self.std, np.divide)):
            if numbers:
                found = op(found, _column(numbers, found.ndim, axis))
        order = _permutation(self.layout)
        return np.ascontiguousarray(_cast(found.transpose(order) if order else found, spec))

    def draw(self, drawing: Drawing, value: ir.Value, spec: TensorSpec) -> ir.Value:
        """Nodes that make the member's input of the shared ``value``."""
        axis, rank = self.axis(spec), len(spec.shape or ())
        found = drawing.op("Cast", value, to=int(ir.DataType.FLOAT)) if value.dtype != ir.DataType.FLOAT else value
        if self.size is not None:
            rows, columns = _spatial(axis)
            order = [0, axis, rows, columns]
            if axis != 1:
                found = drawing.op("Transpose", found, perm=order)
            head = drawing.op("Slice", drawing.op("Shape", found), drawing.constant([0]), drawing.constant([2]))
            sizes = drawing.op("Concat", head, drawing.constant(list(self.size)), axis=0)
            found = drawing.op(
                "Resize", found, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel"
            )
            if axis != 1:
                found = drawing.op("Transpose", found, perm=[order.index(i) for i in range(4)])
        if self.colour is not None:
            step = [drawing.constant([k]) for k in (-1, -(2**62), axis, -1)]
            found = drawing.op("Slice", found, *step)
        if self.scale != 1:
            found = drawing.op("Mul", found, drawing.constant(self.scale))
        for numbers, op in ((self.mean, "Sub"), (self.std, "Div")):
            if numbers:
                found = drawing.op(op, found, drawing.constant(_column(numbers, rank, axis)))
        order = _permutation(self.layout)
        if order:
            found = drawing.op("Transpose", found, perm=order)
        wanted = ir.DataType.from_numpy(spec.dtype) if spec.dtype is not None else ir.DataType.FLOAT
        if wanted == ir.DataType.FLOAT:
            return found
        if spec.dtype is not None and spec.dtype.kind in "iu":
            limits = np.iinfo(spec.dtype)  # pyright: ignore
            low, high = drawing.constant(float(limits.min)), drawing.constant(float(limits.max))
            found = drawing.op("Clip", drawing.op("Round", found), low, high)
        return drawing.op("Cast", found, to=int(wanted))


def read_adapter(text: str, where: str) -> Adapter:
    """The adapter in ``scale=0.5,mean=1;2;3,layout=NHWC,size=32x32``, or in a TOML file with these keys.

    Raises:
        UsageError: It is neither.
    """
    table: dict[str, object] = {}
    if text.endswith(".toml"):
        try:
            table = cast(dict[str, object], tomllib.loads(Path(text).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the preprocessing: {error}", where=where, fix="check the file") from error
    else:
        for item in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = item.partition("=")
            table[key.strip()] = value.strip()
    for key in table:
        if key not in KEYS:
            raise UsageError(f"unknown key {key!r}", where=where, fix=nearest(key, KEYS))
    if not table:
        raise UsageError("the preprocessing is empty", where=where, fix="for instance scale=0.00392157,layout=NHWC")
    adapter = Adapter()
    for key, value in table.items():
        adapter = replace(adapter, **{key: _parsed(key, value, where)})
    return adapter


def _parsed(key: str, value: object, where: str) -> object:
    try:
        if key in ("layout", "colour"):
            word = str(value).upper()
            known = ("NCHW", "NHWC") if key == "layout" else ("RGB", "BGR")
            if word not in known:
                raise ValueError(f"it is one of {', '.join(known)}")
            return word
        words: list[object] = (
            cast("list[object]", value)
            if isinstance(value, list)
            else list(str(value).lower().replace("x", ";").split(";"))
        )
        if key == "size":
            sizes = [int(str(word)) for word in words]
            if len(sizes) not in (1, 2):
                raise ValueError("it is HEIGHTxWIDTH")
            return (sizes[0], sizes[-1])
        numbers = tuple(float(str(word)) for word in words)
        if key == "scale" and len(numbers) != 1:
            raise ValueError("it is one number")
        return numbers[0] if key == "scale" else numbers
    except ValueError as error:
        raise UsageError(
            f"{key}={value} cannot be read: {error}", where=where, fix="for instance mean=0.485;0.456;0.406,size=32x32"
        ) from error


def _moved(axis: int, layout: str | None) -> int:
    """Where the channel axis of the shared input lies in the member's."""
    return axis if layout is None else 4 - axis


def _permutation(layout: str | None, *, inverse: bool = False) -> list[int]:
    orders = {"NHWC": [0, 2, 3, 1], "NCHW": [0, 3, 1, 2]}
    if layout is None:
        return []
    return orders["NCHW" if (layout == "NHWC") == inverse else "NHWC"]


def _spatial(channel_axis: int) -> tuple[int, int]:
    return (2, 3) if channel_axis == 1 else (1, 2)


def _column(numbers: tuple[float, ...], rank: int, axis: int) -> Array:
    shape = [1] * rank
    if len(numbers) > 1:
        shape[axis] = len(numbers)
    return np.asarray(numbers, np.float32).reshape(shape)


def _resized(array: Array, axis: int, size: int) -> Array:
    """Linear interpolation between pixel centres, as ``Resize`` with ``half_pixel`` does it."""
    old = array.shape[axis]
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(place).astype(np.int64)
    share = (place - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(array.ndim)])
    first, second = array.take(low, axis), array.take(np.minimum(low + 1, old - 1), axis)
    return first * (1 - share) + second * share


def _cast(array: Array, spec: TensorSpec) -> Array:
    if spec.dtype is None or spec.dtype == array.dtype:
        return array
    if spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)  # pyright: ignore
        array = np.clip(np.round(array), limits.min, limits.max)
    return array.astype(spec.dtype)
