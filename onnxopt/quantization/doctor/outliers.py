"""Samples, values and channels that alone stretch a range, so that all others share what is left of the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.core.report import Note, Table
from onnxopt.quantization.doctor.answer import Answer, Word, samples_in_words
from onnxopt.quantization.doctor.watch import Watched
from onnxopt.quantization.ranges.calibrators import choose_range
from onnxopt.quantization.scheme import CPU_X86

__all__ = ["Stretch", "judge_outliers"]

QUESTION = "Outliers?"
SHARE = 0.01
"""The most extreme samples that are left out: this share of all, at least one."""
BY_SAMPLES = 2.0
"""A range counts as stretched from this factor on: one bit of eight is lost. On right data 1.3 was the most seen."""
BY_VALUES = 10.0
"""Likewise for the 0.01 % most extreme values; 5.8 (a GELU) was seen on right data."""
BY_CHANNEL = 50.0
"""Largest channel over the median one; 19 was seen on right data."""
FEWEST = 4
SHOWN = 10


@dataclass(frozen=True)
class Stretch:
    """How much wider the range of one value is than it need be.

    Attributes:
        name: The value.
        low: Lowest value, at most 0.
        high: Highest value, at least 0.
        by_samples: Its range over that without the most extreme samples.
        samples: Places of these in the source.
        by_values: Its range over that without the 0.01 % most extreme values.
        by_channel: Magnitude of the largest channel over that of the median channel; ``None``: no channels.
    """

    name: str
    low: float
    high: float
    by_samples: float
    samples: tuple[int, ...]
    by_values: float
    by_channel: float | None


def judge_outliers(watched: Mapping[str, Watched], places: Sequence[int]) -> Answer:
    """Which samples, values and channels stretch ranges.

    Args:
        watched: The quantized values.
        places: Place in the source of each sample, in the order in which they were watched.
    """
    if not watched or len(places) < FEWEST:
        return Answer(
            "outliers",
            QUESTION,
            "unknown",
            "the model has no value to calibrate" if not watched else f"{samples_in_words(len(places))} cannot tell",
        )
    found = sorted((_stretch(name, seen, places) for name, seen in watched.items()), key=lambda s: -s.by_samples)
    blamed: dict[tuple[int, ...], list[Stretch]] = {}
    for stretch in found:
        if stretch.by_samples >= BY_SAMPLES:
            blamed.setdefault(tuple(sorted(stretch.samples)), []).append(stretch)
    advice = [
        Note(
            ", ".join(f"sample {place}" for place in samples),
            "look",
            f"alone stretches {len(by)} of {len(found)} ranges, that of {by[0].name!r} {_times(by[0].by_samples)}: "
            "remove it unless its like will come in use",
        )
        for samples, by in blamed.items()
    ]
    tails = [s for s in found if s.by_values >= BY_VALUES]
    if tails:
        widest = max(tails, key=lambda s: s.by_values)
        why = f"one value in 10,000 stretches {len(tails)} ranges, that of {widest.name!r} {_times(widest.by_values)}"
        advice.append(Note("values", "note", f"{why}: do not use --calibrator minmax or ema"))
    uneven = [s for s in found if (s.by_channel or 0.0) >= BY_CHANNEL]
    if uneven:
        widest = max(uneven, key=lambda s: s.by_channel or 0.0)
        why = f"one channel of {widest.name!r} is {widest.by_channel:.3g} times the median one (of {len(uneven)} such)"
        advice.append(Note("channels", "note", f"{why}: --mode auto tries equalization and SmoothQuant against that"))
    stretched = sum(len(by) for by in blamed.values())
    word: Word = "doubtful" if blamed else "fine"
    left_out = max(1, int(SHARE * len(places)))
    reason = f"without the {left_out} most extreme of {len(places)} samples no range is {BY_SAMPLES:g} times narrower"
    if blamed:
        reason = f"{stretched} of {len(found)} ranges are stretched {BY_SAMPLES:g} times or more by single samples"
    return Answer(
        "outliers",
        QUESTION,
        word,
        reason,
        Table(
            "Ranges that most depend on few samples, values or channels",
            ("value", "low", "high", "by samples", "samples", "by values", "by channel"),
            tuple(
                (s.name, s.low, s.high, s.by_samples, ", ".join(map(str, s.samples)), s.by_values, s.by_channel)
                for s in found[:SHOWN]
            ),
        ),
        tuple(advice),
        {
            "values": [
                {
                    "name": s.name,
                    "low": s.low,
                    "high": s.high,
                    "by_samples": s.by_samples,
                    "samples": list(s.samples),
                    "by_values": s.by_values,
                    "by_channel": s.by_channel,
                }
                for s in found
            ]
        },
    )


def _stretch(name: str, seen: Watched, places: Sequence[int]) -> Stretch:
    lows, highs = np.minimum(seen.lows, 0.0), np.maximum(seen.highs, 0.0)
    width = float(highs.max() - lows.min())
    count = max(1, int(SHARE * len(places)))
    out: list[int] = []
    for _ in range(count):  # greedily the sample without which the range is narrowest
        kept = np.setdiff1d(np.arange(len(places)), out)
        low, high = np.argsort(lows[kept], kind="stable")[:2], np.argsort(-highs[kept], kind="stable")[:2]
        tried = {int(kept[low[0]]), int(kept[high[0]])}
        out.append(min(sorted(tried), key=lambda i: _width(lows, highs, [*out, i])))
    without = _width(lows, highs, out)
    clipped = choose_range(seen.statistics, "percentile", CPU_X86.activations)
    inner = clipped[1] - clipped[0]
    by_channel: float | None = None
    if seen.channels is not None and seen.channels.size > 1 and np.isfinite(seen.channels).all():
        median = float(np.median(seen.channels))
        by_channel = float(seen.channels.max()) / median if median > 0 else None
    return Stretch(
        name,
        float(lows.min()),
        float(highs.max()),
        _ratio(width, without),
        tuple(int(places[i]) for i in out),
        _ratio(width, inner),
        by_channel,
    )


def _width(lows: np.ndarray, highs: np.ndarray, out: Sequence[int]) -> float:
    return float(np.delete(highs, out).max() - np.delete(lows, out).min())


def _ratio(whole: float, part: float) -> float:
    return whole / part if part > 0 else (1.0 if whole == 0 else float("inf"))


def _times(factor: float) -> str:
    return f"{factor:.3g} times" if np.isfinite(factor) else "from nothing"
