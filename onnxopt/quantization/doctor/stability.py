"""Are there enough samples? As many as it takes for ranges to stay where they are when the number doubles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxopt.core.report import Note, Table
from onnxopt.quantization.doctor.answer import Answer, samples_in_words
from onnxopt.quantization.doctor.watch import Doubling, Range, Watched

__all__ = ["STABLE", "judge_stability", "relative_change"]

STABLE = 0.1
"""Ranges are stable when most of them (``MOST``) change by less; a grid that is 10 % too wide costs 0.8 dB."""
MOST = 0.9
QUESTION = "Enough samples?"
LARGEST = 8192
"""No more samples are asked for: ranges that still move then have no end."""


def judge_stability(watched: Mapping[str, Watched], calibrator: str, count: int) -> Answer:
    """Whether ranges change little from half of the samples to all of them, and from which number on.

    Args:
        watched: The quantized values.
        calibrator: By which ranges were chosen.
        count: Samples.
    """
    steps = len(next(iter(watched.values())).doublings) if watched else 0
    if not steps:
        reason = (
            "the model has no value to calibrate"
            if not watched
            else f"{samples_in_words(count)} cannot show how much ranges vary"
        )
        advice = () if not watched else (Note("samples", "add", "give at least 16, better 128"),)
        return Answer("enough", QUESTION, "doubtful" if watched else "unknown", reason, None, advice)
    names = list(watched)
    rows: list[tuple[int, float, float, float, str, float, float]] = []
    for step in range(steps):
        at = [watched[name].doublings[step] for name in names]
        change = np.array([_growth(d) for d in at])
        halves = np.array([relative_change(d.first, d.second) for d in at])
        worst = int(np.argmax(change))
        rows.append(
            (
                at[0].samples,
                float(np.median(change)),
                float(np.quantile(change, MOST)),
                float(change[worst]),
                names[worst],
                float(np.median(halves)),
                float(halves.max()),
            )
        )
    change = [row[2] for row in rows]
    enough = _stable_from([row[0] for row in rows], change)
    needed = enough if enough is not None else _needed(rows[-1][0], change[-1])
    text = f"{MOST:.0%} of the ranges change by less than {STABLE:.0%}"
    if enough is not None:
        so_far = f"{enough} would do" if 4 * enough <= count else f"stable as far as {count} samples show"
        word, reason, advice = "fine", f"{text} from {enough} to {2 * enough} samples: {so_far}", []
    elif needed <= count:
        word, reason, advice = "fine", f"{text} from about {needed} samples on: just enough", []
    else:
        word = "doubtful"
        reason = f"from {rows[-1][0]} to {count} samples a tenth of the ranges change by {change[-1]:.0%} or more"
        more = f"about {needed}" if needed < LARGEST else f"more than {count}, and look at the outliers first:"
        advice = [Note("samples", "add", f"give {more} (the change falls with the root of their number)")]
    if 2 * (enough or needed) > count and word == "fine":
        half = "quantize calibrates on half of --data, at most 128, and judges on the rest: give --eval-data to use all"
        advice.append(Note("samples", "note", half))
    return Answer(
        "enough",
        QUESTION,
        word,
        reason,
        Table(
            f"Ranges ({calibrator}) as the number n of samples doubles: relative change",
            ("n", "n to 2n: median", f"{MOST:.0%} below", "worst", "value", "half against half: median", "worst half"),
            tuple(
                (n, *(f"{c:.1%}" for c in (a, b, c_)), name, f"{h:.1%}", f"{w:.1%}") for n, a, b, c_, name, h, w in rows
            ),
        ),
        tuple(advice),
        {
            "calibrator": calibrator,
            "values": len(names),
            "stable_below": STABLE,
            "enough": enough,
            "needed": needed,
            "doublings": [
                dict(
                    zip(
                        ("samples", "median", "most", "worst", "value", "halves_median", "halves_worst"),
                        row,
                        strict=True,
                    )
                )
                for row in rows
            ],
        },
    )


def relative_change(one: Range, other: Range) -> float:
    """How far both ends lie apart, over the width of the wider range; 0 for two empty ones."""
    width = max(one[1] - one[0], other[1] - other[0])
    return (abs(one[0] - other[0]) + abs(one[1] - other[1])) / width if width > 0 else 0.0


def _growth(doubling: Doubling) -> float:
    """Mean change from either half to the whole."""
    halves = (doubling.first, doubling.second)
    return sum(relative_change(half, doubling.both) for half in halves) / 2


def _stable_from(sizes: Sequence[int], change: Sequence[float]) -> int | None:
    """The smallest number from which on no doubling changes the ranges by as much as ``STABLE``."""
    found: int | None = None
    for size, value in zip(reversed(sizes), reversed(change), strict=True):
        if value >= STABLE:
            break
        found = size
    return found


def _needed(size: int, change: float) -> int:
    """About how many samples, a power of two, if the change falls with the root of their number."""
    exact = size * (change / STABLE) ** 2
    return min(LARGEST, 1 << max(1, math.ceil(math.log2(max(exact, 2)))))
