"""Mergeable statistics of activations: any order, batch size, split or merge of the same values gives the same bits.

A ``Histogram`` has bins of width ``2**exponent``, aligned at multiples of that width. The exponent follows from the
largest magnitude alone, and summing pairs of aligned bins is exact, so that the counts are a function of the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

__all__ = ["SIDE", "Histogram", "MinMax", "Statistics"]

Array: TypeAlias = np.ndarray[Any, Any]

DIGITS = 12
SIDE = 1 << DIGITS
"""Bins on each side of zero; the side of the largest magnitude uses more than half of them."""
LOWEST = -126
"""No bin is narrower than the smallest normal float32: scales are not smaller either."""
CHUNK = 1 << 15
"""Values counted at once, so that what is in between stays in the cache."""
ROW = 1 << 14
"""Of each row (index of the first axis) about so many values are counted, evenly spaced, where it holds more.

The row decides, not the array, so that batches do not matter; extremes and finiteness are those of all values. Counting
all values took twice as long as running the model.
"""
UNIT = 1 << 1074
"""Every finite float64 is a whole multiple of 1 / UNIT, so that integers sum them exactly."""


@dataclass(frozen=True)
class MinMax:
    """The smallest and the largest finite value seen, and whether all values were finite."""

    low: float = float("inf")
    high: float = float("-inf")
    finite: bool = True

    def update(self, array: Array) -> MinMax:
        """The statistics with the values of ``array`` added."""
        if array.size == 0:
            return self
        low, high = float(array.min()), float(array.max())
        if math.isfinite(low) and math.isfinite(high):
            return self.merge(MinMax(low, high))
        known = array[np.isfinite(array)]
        return self.update(known).merge(MinMax(finite=False))

    def merge(self, other: MinMax) -> MinMax:
        """The statistics of both parts of the data."""
        return MinMax(min(self.low, other.low), max(self.high, other.high), self.finite and other.finite)

    def range(self) -> tuple[float, float]:
        """Low and high of the values seen; (0, 0) when there were none."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values lie in each bin.

    Attributes:
        exponent: Binary logarithm of the width of a bin.
        counts: (2 * SIDE,) int64. Bin ``SIDE + i`` holds the values with ``trunc(x / 2**exponent) == i``, so that the
            one in the middle is twice as wide.
    """

    exponent: int = LOWEST
    counts: Array = field(default_factory=lambda: np.zeros(2 * SIDE, np.int64), repr=False)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and self.exponent == other.exponent
            and np.array_equal(self.counts, other.counts)
        )

    def __hash__(self) -> int:
        return hash((self.exponent, self.counts.tobytes()))

    def update(self, array: Array, magnitude: float) -> Histogram:
        """The histogram with the finite values of ``array`` added, none of which exceeds ``magnitude``.

        Coarser bins than ``magnitude`` needs are kept, so it should be exact.
        """
        needed = math.frexp(magnitude)[1] - DIGITS if magnitude > 0 else LOWEST
        exponent = max(self.exponent, needed)
        return Histogram(exponent, self._coarse(exponent) + _count(array, exponent))

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both parts of the data."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(exponent, self._coarse(exponent) + other._coarse(exponent))

    def _coarse(self, exponent: int) -> Array:
        """The counts in bins of width ``2**exponent``, which is not narrower."""
        steps = min(exponent - self.exponent, DIGITS)
        if not steps:
            return self.counts
        kept = SIDE >> steps
        above = self.counts[SIDE:].reshape(kept, -1).sum(axis=1)
        below = np.append(0, self.counts[SIDE - 1 : 0 : -1]).reshape(kept, -1).sum(axis=1)
        counts = np.zeros_like(self.counts)
        counts[SIDE : SIDE + kept] = above
        counts[SIDE] += below[0]
        counts[SIDE - kept + 1 : SIDE] = below[:0:-1]
        return counts


@dataclass(frozen=True)
class Statistics:
    """All that calibrators need to know of one value.

    Attributes:
        range: Extremes over all samples.
        samples: Samples that held a finite value.
        lows: Sum of the smallest value of each sample, in units of ``1 / UNIT``.
        highs: Sum of the largest one.
        histogram: ``None`` where only ranges were collected.
    """

    range: MinMax = MinMax()
    samples: int = 0
    lows: int = 0
    highs: int = 0
    histogram: Histogram | None = None

    def update(self, array: Array) -> Statistics:
        """The statistics with one more sample: what the value was in one call of the model."""
        if array.size == 0:
            return self
        seen = MinMax().update(array)
        merged = self.range.merge(seen)
        if seen.low > seen.high:  # nothing finite
            return Statistics(merged, self.samples, self.lows, self.highs, self.histogram)
        histogram = self.histogram
        if histogram is not None:
            finite = _evenly(array)
            if not seen.finite:
                finite = finite[np.isfinite(finite)]
            histogram = histogram.update(finite, max(-seen.low, seen.high))
        return Statistics(
            merged, self.samples + 1, self.lows + _units(seen.low), self.highs + _units(seen.high), histogram
        )

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both parts of the data; a histogram only where both have one."""
        both = None
        if self.histogram is not None and other.histogram is not None:
            both = self.histogram.merge(other.histogram)
        return Statistics(
            self.range.merge(other.range),
            self.samples + other.samples,
            self.lows + other.lows,
            self.highs + other.highs,
            both,
        )

    def mean_range(self) -> tuple[float, float]:
        """The means of the smallest and of the largest value of a sample, each rounded once; (0, 0) without values."""
        if not self.samples:
            return 0.0, 0.0
        return self.lows / (UNIT * self.samples), self.highs / (UNIT * self.samples)


def _evenly(array: Array) -> Array:
    """The values to count, (count,)."""
    row = array.size // array.shape[0] if array.ndim > 1 else 0
    step = (row // ROW) | 1  # odd, so that it does not follow the width of an image
    return array.reshape(-1) if step == 1 else array.reshape(array.shape[0], -1)[:, ::step].reshape(-1)


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator * (UNIT // denominator)


def _count(values: Array, exponent: int) -> Array:
    """Counts of finite ``values`` (any number type) in bins of width ``2**exponent``.

    Scaling by a power of two is exact; where it underflows the bin is the one in the middle anyway.
    """
    kind = np.float32 if values.dtype in (np.float16, np.float32) else np.float64
    scale = kind(math.ldexp(1.0, -exponent))
    counts = np.zeros(2 * SIDE, np.int64)
    size = min(CHUNK, values.size)
    scaled, index = np.empty(size, kind), np.empty(size, np.intp)
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK]
        numbers, bins = scaled[: chunk.size], index[: chunk.size]
        np.multiply(chunk, scale, out=numbers, dtype=kind, casting="unsafe")
        bins[...] = numbers  # truncates
        bins += SIDE
        counts += np.bincount(bins, minlength=2 * SIDE)
    return counts
