"""Ranges from statistics, offline: every calibrator reads the same ``Statistics``, and none reads the data again."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from onnxopt.quantization.ranges.observers import SIDE, Histogram, Statistics
from onnxopt.quantization.scheme import Grid

__all__ = ["CALIBRATORS", "Calibrator", "choose_range", "needs_histogram"]

Array: TypeAlias = np.ndarray[Any, Any]

Calibrator: TypeAlias = Literal["minmax", "ema", "percentile", "percentile-99.9", "entropy", "mse"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)
"""``percentile`` keeps 99.99 % of the values."""

RESOLVED = 16
"""A range of fewer bins than this says nothing: outliers have made the bins too wide for it."""
OCTAVE = 16
OCTAVES = 9
"""The search for the least error tries ends ``extreme * 2**(-i / OCTAVE)``, down to ``2**-OCTAVES``."""
STRIDE = 4
"""Bins between the thresholds that the entropy search tries."""


def needs_histogram(calibrator: Calibrator) -> bool:
    """Whether ranges over all samples and per sample are not enough for ``calibrator``."""
    return calibrator not in ("minmax", "ema")


def choose_range(statistics: Statistics, calibrator: Calibrator, grid: Grid) -> tuple[float, float]:
    """Low and high of what ``grid`` is to cover; never beyond the values seen, and zero always inside.

    * ``minmax``: all values.
    * ``ema``: the mean over the samples of the smallest and of the largest value of each. A moving average depends on
      the order of the samples; its limit for a long memory, this mean, does not. It depends on what a sample is.
    * ``percentile``, ``percentile-99.9``: all but 0.01 % or 0.1 % of the values, half of them at either end.
    * ``entropy``: least Kullback-Leibler divergence (``_entropy``).
    * ``mse``: least expected squared error (``_least_error``).

    A calibrator that needs a histogram falls back to ``minmax`` where the histogram is too coarse: a range of less than
    ``RESOLVED`` of some 4096 bins.
    """
    low, high = statistics.range.range()
    low, high = min(low, 0.0), max(high, 0.0)
    if calibrator == "minmax" or low == high:
        return low, high
    if calibrator == "ema":
        mean_low, mean_high = statistics.mean_range()
        return _inside(mean_low, mean_high, low, high)
    histogram = statistics.histogram
    if histogram is None:
        raise ValueError(f"the calibrator {calibrator} needs a histogram")
    match calibrator:
        case "percentile":
            found = _percentile(histogram, 1e-4)
        case "percentile-99.9":
            found = _percentile(histogram, 1e-3)
        case "entropy":
            found = _entropy(histogram, one_sided=low == 0 or high == 0, grid=grid)
        case "mse":
            found = _least_error(histogram, low, high, grid)
    chosen = _inside(*found, low, high)
    if chosen[1] - chosen[0] < RESOLVED * 2.0**histogram.exponent:
        return low, high
    return chosen


def _inside(low: float, high: float, lowest: float, highest: float) -> tuple[float, float]:
    return min(max(low, lowest), 0.0) + 0.0, max(min(high, highest), 0.0) + 0.0  # no negative zero


def _percentile(histogram: Histogram, cut: float) -> tuple[float, float]:
    """Outer edges of the bins in which the quantiles ``cut / 2`` and ``1 - cut / 2`` lie."""
    total = np.cumsum(histogram.counts)
    count = float(total[-1])
    first = np.searchsorted(total, count * cut / 2, side="right")
    last = np.searchsorted(total, count * (1 - cut / 2), side="left")
    width = 2.0**histogram.exponent
    low, high = int(first) - SIDE, int(last) - SIDE
    return (low - (low <= 0)) * width, (high + (high >= 0)) * width


def _entropy(histogram: Histogram, *, one_sided: bool, grid: Grid) -> tuple[float, float]:
    """The threshold of least divergence between the magnitudes, clipped, and what is left of them on the grid.

    S. Migacz, 8-bit Inference with TensorRT, GTC 2017: P is the histogram up to the threshold with what lies beyond
    added to its last bin (2048 bins up to the power of two above the largest magnitude); Q merges its bins (without
    what lies beyond) into levels and spreads each level evenly over the bins that are not empty. The bin at zero counts
    as much as the next one, as in NVIDIA's pytorch-quantization: otherwise the zeros of a Relu outweigh all else. The
    sums over bins are differences of running sums.
    """
    above, below = histogram.counts[SIDE:], histogram.counts[SIDE:0:-1]
    counts = above.astype(np.float64)
    counts[1:] += below[1:]
    counts = counts.reshape(-1, 2).sum(axis=1)
    counts[0] = counts[1]
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    levels = grid.high - grid.low + 1 if one_sided and not grid.symmetric else 128
    width = 2.0 ** (histogram.exponent + 1)
    if used <= levels:
        return -SIDE * width, SIDE * width
    counts = counts[:used]
    thresholds = np.append(np.arange(levels, used, STRIDE), used)
    mass, filled = _running(counts), _running(counts > 0)
    logs = _running(_times_log(counts))
    edges = (thresholds[:, None] * np.arange(levels + 1)) // levels
    level_mass, level_filled = np.diff(mass[edges], axis=1), np.diff(filled[edges], axis=1)
    kept, beyond, last = mass[thresholds], mass[used] - mass[thresholds], counts[thresholds - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.where(level_mass > 0, np.log(level_mass / level_filled), 0.0)
        p_log_p = logs[thresholds] - _times_log(last) + _times_log(last + beyond)
        # Where the last bin is empty and values lie beyond, Q has nothing to stand for them: infinite divergence.
        p_log_q = (level_mass * log_q).sum(axis=1) + np.where(beyond > 0, beyond * log_q[:, -1], 0.0)
        divergence = (p_log_p - p_log_q) / mass[used] + np.log(kept) - np.log(mass[used])
    divergence[(beyond > 0) & (last == 0)] = np.inf
    bound = float(thresholds[int(np.argmin(divergence))]) * width
    return -bound, bound


def _least_error(histogram: Histogram, low: float, high: float, grid: Grid) -> tuple[float, float]:
    """Both ends of the range of least expected squared error: values outside are clipped, values inside rounded.

    The error of rounding to a step ``s`` is taken as ``s**2 / 12`` (Widrow), and as the value itself below ``s / 2``,
    since zero is on the grid: after a Relu most values are exact.
    """
    width = 2.0**histogram.exponent
    centers = np.arange(SIDE) + 0.5
    centers[0] = 0.0
    above, below = (side.astype(np.float64) for side in (histogram.counts[SIDE:], histogram.counts[SIDE:0:-1]))
    below[0] = 0.0
    shrink = 2.0 ** -(np.arange(OCTAVE * OCTAVES + 1) / OCTAVE)
    if grid.symmetric:
        bounds = max(-low, high) * shrink
        lows = highs = bounds / width
        steps = 2 * bounds / width / (grid.high - grid.low)
        clipped = _clipping(above, centers, highs) + _clipping(below, centers, lows)
        inside = _below(above, highs) + _below(below, lows)
        best = int(np.argmin(clipped + _rounding(above + below, centers, steps, inside)))
        return -float(bounds[best]), float(bounds[best])
    lows = -low / width * shrink if low < 0 else np.zeros(1)
    highs = high / width * shrink if high > 0 else np.zeros(1)
    steps = (lows[:, None] + highs) / (grid.high - grid.low)
    clipped = _clipping(below, centers, lows)[:, None] + _clipping(above, centers, highs)
    inside = _below(below, lows)[:, None] + _below(above, highs)
    row, column = divmod(int(np.argmin(clipped + _rounding(above + below, centers, steps, inside))), highs.size)
    return -float(lows[row]) * width, float(highs[column]) * width


def _clipping(counts: Array, centers: Array, ends: Array) -> Array:
    """Squared error of the values beyond each of ``ends``, in units of bins."""
    n, first, second = (_running((counts * power)[::-1])[::-1] for power in (1.0, centers, centers**2))
    index = _index(ends)
    return second[index] - 2 * ends * first[index] + ends**2 * n[index]


def _below(counts: Array, ends: Array) -> Array:
    return _running(counts)[_index(ends)]


def _rounding(counts: Array, centers: Array, steps: Array, inside: Array) -> Array:
    half = _index(steps / 2)
    few = np.minimum(_running(counts)[half], inside)
    return _running(counts * centers**2)[half] + steps**2 / 12 * (inside - few)


def _index(ends: Array) -> Array:
    """How many bins have their centre below each of ``ends``."""
    return np.clip(np.ceil(ends - 0.5), 1, SIDE).astype(np.intp)


def _running(values: Array) -> Array:
    return np.append(0.0, np.cumsum(values))


def _times_log(values: Array) -> Array:
    return np.where(values > 0, values * np.log(np.maximum(values, 1.0)), 0.0)
