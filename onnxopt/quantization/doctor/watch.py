"""One pass over the calibration data from which the questions about ranges are answered.

The samples come in random order, and statistics are merged at each doubling of their number: the ranges of the first
``n`` samples, of the next ``n``, and of both are those of three calibrations, from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.quantization.ranges.calibrators import Calibrator, choose_range
from onnxopt.quantization.ranges.observers import Histogram, MinMax, Statistics
from onnxopt.quantization.scheme import CPU_X86
from onnxopt.quantization.select import place
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap

__all__ = ["Doubling", "Range", "Watched", "doublings", "watch"]

Array: TypeAlias = np.ndarray[Any, Any]
Range: TypeAlias = tuple[float, float]

MOST_DOUBLINGS = 6
FEWEST = 2
"""Samples below which a range is not looked at."""


@dataclass(frozen=True)
class Doubling:
    """Ranges of one value as the number of samples doubles.

    Attributes:
        samples: How many come first.
        first: Range over these.
        second: Range over as many others (one more where the number is odd).
        both: Range over all of them.
    """

    samples: int
    first: Range
    second: Range
    both: Range


@dataclass(frozen=True, eq=False)
class Watched:
    """What was seen of one value.

    Attributes:
        doublings: Smallest number of samples first.
        statistics: Over all samples.
        lows: Smallest finite value of each sample, in the order of ``watch``'s ``places``, ``(samples,)`` float64.
        highs: Largest finite value of each sample.
        channels: Largest magnitude of each channel over all samples; ``None``: no channels, or their number varies.
    """

    doublings: tuple[Doubling, ...]
    statistics: Statistics
    lows: Array
    highs: Array
    channels: Array | None


def doublings(count: int) -> tuple[int, ...]:
    """The numbers of samples at which statistics are merged: ``count`` halved again and again, smallest first."""
    found = [count]
    while len(found) <= MOST_DOUBLINGS and found[-1] // 2 >= FEWEST:
        found.append(found[-1] // 2)
    return tuple(reversed(found))


def watch(
    model: Model, names: Sequence[str], data: Dataset, calibrator: Calibrator, ctx: Context
) -> tuple[dict[str, Watched], tuple[int, ...]]:
    """What the named values are on ``data``; memory does not grow with the samples but by two numbers each a value.

    Args:
        model: The model that is to be quantized; it is not changed.
        names: Values of its main graph.
        data: The samples.
        calibrator: How ranges follow from statistics.
        ctx: Target, folder and seed.

    Returns:
        Name -> what was seen, and the places of the samples in the source in the order in which they were run.
    """
    order = np.random.default_rng(ctx.seed).permutation(len(data))
    shuffled = data.take([int(i) for i in order])
    axes = _channel_axes(model)
    found = {name: _Watch(doublings(len(data)), axes.get(name), calibrator) for name in names}

    def samples() -> Iterator[Feeds]:
        return (sample.feeds for sample in shuffled)

    with ctx.progress.task("watching the ranges", None) as advance:
        for values in tap(model, names, samples, ctx.target, ctx.workdir):
            for name, array in values.items():
                found[name].add(array)
            advance(1)
    return {name: seen.result() for name, seen in found.items()}, shuffled.order


class _Watch:
    """Watches one value. Mutable: samples stream in."""

    def __init__(self, sizes: Sequence[int], axis: int | None, calibrator: Calibrator) -> None:
        self._sizes, self._axis = sizes, axis
        self._calibrator: Calibrator = calibrator
        self._first = self._second = _empty()
        self._count = 0
        self._doublings: list[Doubling] = []
        self._lows: list[float] = []
        self._highs: list[float] = []
        self._channels: Array | None = None
        self._ragged = axis is None

    def add(self, array: Array) -> None:
        """Adds one sample."""
        low, high = MinMax().update(array).range()
        self._lows.append(low)
        self._highs.append(high)
        self._second = self._second.update(array)
        self._count += 1
        if not self._ragged:
            self._watch_channels(array)
        if self._count in self._sizes:
            self._double()

    def result(self) -> Watched:
        """All that was seen."""
        channels = None if self._ragged else self._channels
        return Watched(tuple(self._doublings), self._first, np.asarray(self._lows), np.asarray(self._highs), channels)

    def _double(self) -> None:
        both = self._first.merge(self._second)
        if self._count > self._sizes[0]:
            size = self._count // 2
            self._doublings.append(
                Doubling(size, self._range(self._first), self._range(self._second), self._range(both))
            )
        self._first, self._second = both, _empty()

    def _range(self, statistics: Statistics) -> Range:
        return choose_range(statistics, self._calibrator, CPU_X86.activations)

    def _watch_channels(self, array: Array) -> None:
        if array.ndim < 2 or self._axis is None:
            self._ragged = True
            return
        axis = self._axis % array.ndim
        largest = np.abs(array).max(axis=tuple(a for a in range(array.ndim) if a != axis), initial=0.0)
        known = self._channels if self._channels is not None else largest
        self._ragged = known.shape != largest.shape
        if not self._ragged:
            self._channels = np.maximum(known, largest)


def _empty() -> Statistics:
    return Statistics(histogram=Histogram())


def _channel_axes(model: Model) -> Mapping[str, int]:
    """Name of a value -> the axis of its channels, for what integer kernels read."""
    found: dict[str, int] = {}
    for node in place(model).nodes:
        value = node.inputs[0]
        if value is not None and value.name:
            found[value.name] = 1 if node.op_type == "Conv" else -1
    return found
