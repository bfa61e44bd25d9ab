"""Second moments of what layers read: all that the squared error of a linear layer needs to know of the data.

A layer that multiplies weights ``w`` with vectors ``x`` has, for a change ``d`` of its weights, the mean squared error
``d^T E[x x^T] d`` at its output; with the mean of the error taken out by the bias, ``d^T Cov(x) d``. The matrices do
not grow with the data. The vectors of a Conv are its patches, each group by itself.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context
from onnxopt.passes.constants import int_attribute
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap

__all__ = ["VECTORS", "Gram", "Reads", "not_padding", "observe"]

VECTORS = 256
"""At most so many vectors of a call enter, drawn at random: neighbouring patches tell the same."""
FEWEST = 32
"""Vectors of a call that enter in any case, where there are so many."""
TOGETHER = 2048
"""Vectors that are multiplied together."""
WIDEST = 4096
"""Longer vectors are cut into parts, whose products with each other are not looked at."""
BUDGET_BYTES = 256 << 20
"""The matrices that are filled in one pass over the data."""


@dataclass(frozen=True)
class Reads:
    """What a Conv, Gemm or MatMul multiplies its weights with; equal for layers that read the same.

    Attributes:
        value: Name of the value.
        groups: Groups of a Conv, else 1.
        size: Length of the vectors of one group.
        kernel: Sizes of the window of a Conv; ``None``: the vectors are the last axis.
        strides: One for each axis of the kernel.
        dilations: One for each axis of the kernel.
        pads: All at the start, then all at the end.
        auto_pad: As ONNX has it.
    """

    value: str
    groups: int
    size: int
    kernel: tuple[int, ...] | None = None
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"

    @staticmethod
    def of(node: ir.Node, value: str, weight_shape: tuple[int, ...], axis: int) -> Reads:
        """What ``node`` reads from ``value``; ``axis`` is that of the output channels in the weight."""
        if node.op_type != "Conv":
            return Reads(value, 1, weight_shape[1 - axis])
        kernel = weight_shape[2:]
        dims, get = len(kernel), node.attributes.get_ints
        return Reads(
            value,
            int_attribute(node, "group", 1) or 1,
            math.prod(weight_shape[1:]),
            kernel,
            tuple(get("strides") or (1,) * dims),
            tuple(get("dilations") or (1,) * dims),
            tuple(get("pads") or (0,) * 2 * dims),
            node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
        )

    def vectors(self, array: Array, most: int, rng: np.random.Generator, real: Array | None = None) -> Array:
        """At most ``most`` of the vectors in ``array``: (groups, size, count) float32."""
        return self.at(array, self.draw(array, most, rng, real))

    def draw(self, array: Array, most: int, rng: np.random.Generator, real: Array | None = None) -> Array:
        """At most ``most`` of the places of the vectors in ``array``, in order; of padding none, where it is known.

        No number is drawn where all are taken.
        """
        if self.kernel is not None:
            count = math.prod(self._places(self._windows(array)))
        else:
            count = array.size // self.size
            if real is not None and array.shape[:-1] == real.shape:
                places = np.flatnonzero(real)
                return np.sort(rng.choice(places, most, replace=False)) if len(places) > most else places
        return np.sort(rng.choice(count, most, replace=False)) if count > most else np.arange(count)

    def at(self, array: Array, chosen: Array) -> Array:
        """The vectors at some of the places of ``array``: (groups, size, count) float32."""
        if self.kernel is None:
            return np.ascontiguousarray(array.reshape(-1, self.size)[chosen].T[None], np.float32)
        windows = self._windows(array)
        batch, *position = np.unravel_index(chosen, self._places(windows))
        found = windows[(batch, slice(None), *position)].reshape(len(chosen), self.groups, self.size)
        return np.ascontiguousarray(found.transpose(1, 2, 0), np.float32)

    def _places(self, windows: Array) -> tuple[int, ...]:
        return (windows.shape[0], *windows.shape[2 : 2 + len(self.kernel or ())])

    def _windows(self, array: Array) -> Array:
        """A view (batch, channels, *positions, *kernel) of the padded input."""
        kernel = self.kernel or ()
        spans = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, self.dilations, strict=True)]
        padded = np.pad(array, [(0, 0), (0, 0), *self._padding(array.shape[2:], spans)])
        windows = sliding_window_view(padded, spans, axis=tuple(range(2, array.ndim)))
        steps = [slice(None, None, step) for step in (*self.strides, *self.dilations)]
        return windows[(slice(None), slice(None), *steps)]

    def _padding(self, sizes: Sequence[int], spans: Sequence[int]) -> Iterator[tuple[int, int]]:
        for axis, (size, span, stride) in enumerate(zip(sizes, spans, self.strides, strict=True)):
            if not self.auto_pad.startswith("SAME"):
                explicit = self.auto_pad == "NOTSET"
                yield (self.pads[axis], self.pads[axis + len(spans)]) if explicit else (0, 0)
                continue
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            half = total // 2
            yield (half, total - half) if self.auto_pad == "SAME_UPPER" else (total - half, half)


def not_padding(feeds: Feeds) -> Array | None:
    """Which positions of (batch, length) hold something, where an input says so: ones in front, zeros behind.

    Segment numbers do not look like that: their first segment is 0.
    """
    for array in feeds.values():
        if array.ndim != 2 or array.dtype.kind not in "biu" or not array.size:
            continue
        mask = array.astype(bool)
        if mask.all() or (array != mask).any() or not mask[:, 0].all():
            continue
        if (mask[:, 1:] <= mask[:, :-1]).all():
            return mask
    return None


class Gram:
    """Running second moments of the vectors of one ``Reads``. Mutable: calls stream in.

    Attributes:
        parts: The parts of the vectors that are looked at together.
    """

    def __init__(self, reads: Reads) -> None:
        self.parts = [slice(i, min(i + WIDEST, reads.size)) for i in range(0, reads.size, WIDEST)]
        sizes = [part.stop - part.start for part in self.parts]
        self._products = [np.zeros((reads.groups, size, size), np.float32) for size in sizes]
        self._sum = np.zeros((reads.groups, reads.size))
        self._count = 0
        self._waiting: list[Array] = []
        self._enough = min(reads.size, TOGETHER)

    def update(self, vectors: Array) -> None:
        """Adds vectors, (groups, size, count) float32."""
        self._sum += vectors.sum(axis=2, dtype=np.float64)
        self._count += vectors.shape[2]
        self._waiting.append(vectors)
        if sum(v.shape[2] for v in self._waiting) >= self._enough:
            self._multiply()

    def _multiply(self) -> None:
        """Adds the products of those that wait: of many together, because the matrices may be large."""
        if not self._waiting:
            return
        vectors = np.concatenate(self._waiting, axis=2)
        self._waiting.clear()
        for part, product in zip(self.parts, self._products, strict=True):
            product += vectors[:, part] @ vectors[:, part].transpose(0, 2, 1)

    def moments(self, *, centered: bool) -> list[Array]:
        """``E[x x^T]`` of each part, or the covariance: (groups, size, size) float32; zero without vectors."""
        self._multiply()
        count = max(self._count, 1)
        mean = (self._sum / count).astype(np.float32)
        found: list[Array] = []
        for part, product in zip(self.parts, self._products, strict=True):
            moment = product / np.float32(count)
            if centered:
                moment -= mean[:, part, None] * mean[:, None, part]
            found.append(moment)
        return found


def observe(
    model: Model, reads: Sequence[Reads], ctx: Context, enough: int | None = None
) -> Iterator[tuple[Reads, Gram]]:
    """The second moments of what is read in ``model``, over ``ctx.data``: as few passes as memory allows.

    Args:
        model: The model; it is not changed.
        reads: What to observe, each once.
        ctx: Data, target, folder and seed.
        enough: Vectors that are wanted for each row; default: all that a call may give.
    """
    if ctx.data is None:
        return
    data = ctx.data
    most = {i: VECTORS if enough is None else min(VECTORS, max(FEWEST, enough * i.size // len(data))) for i in reads}
    real = [not_padding(sample.feeds) for sample in data]
    for wave in _waves(reads):
        found = {item: Gram(item) for item in wave}
        draws = {item: np.random.default_rng([ctx.seed, zlib.crc32(item.value.encode())]) for item in wave}
        names = list(dict.fromkeys(item.value for item in wave))
        with ctx.progress.task("observing what layers read", len(data)) as advance:
            for index, values in enumerate(tap(model, names, lambda: (s.feeds for s in data), ctx.target, ctx.workdir)):
                for item, gram in found.items():
                    if item.value in values and values[item.value].size:
                        mask = real[index % len(real)]
                        gram.update(item.vectors(values[item.value], most[item], draws[item], mask))
                advance(1)
        yield from found.items()


def _waves(reads: Sequence[Reads]) -> Iterator[list[Reads]]:
    """``reads`` in order, cut so that no part with more than one item exceeds the budget."""
    wave: list[Reads] = []
    used = 0
    for item in reads:
        needed = item.groups * item.size * min(item.size, WIDEST) * 4
        if wave and used + needed > BUDGET_BYTES:
            yield wave
            wave, used = [], 0
        wave.append(item)
        used += needed
    if wave:
        yield wave
