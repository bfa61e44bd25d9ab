"""The data of ``quantize`` and ``prune``: what is fitted to, and what is held back to judge by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxopt.commands.common import Source, open_data
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset, evenly, split
from onnxopt.errors import DataError
from onnxopt.run.target import Target

__all__ = ["CALIBRATION_SAMPLES", "SEARCH_SAMPLES", "calibrated", "fitted_to", "split_data", "spread"]

CALIBRATION_SAMPLES = 128
SEARCH_SAMPLES = 512
"""That pruning is searched on where training has more: what repair gains from more is little, and takes long."""
HELD_BACK, LEAST_HELD_BACK, MOST_HELD_BACK = 0.125, 48, 0.25
"""Of the data that weights are fitted to, to judge by; at least so many, at most that share."""
LOOKED_AT = 16
"""Samples, evenly spaced, in which one value at least must differ."""


def calibrated(count: int) -> int:
    """How many of so many samples are calibrated on where the others judge."""
    return min(CALIBRATION_SAMPLES, count // 2)


def fitted_to(count: int) -> int:
    """How many of so many samples are fitted to where the others judge: three quarters to seven eighths."""
    held_back = min(max(int(count * HELD_BACK), LEAST_HELD_BACK), int(count * MOST_HELD_BACK))
    return count - held_back if held_back else count // 2


def split_data(
    source: Source,
    eval_data: str | None,
    path: Path,
    model: Model,
    target: Target,
    fitted: Callable[[int], int] = calibrated,
) -> tuple[Dataset, Dataset]:
    """Samples to calibrate on, and samples to judge by: ``eval_data``, or what calibration leaves of ``source``.

    Args:
        source: The user's data.
        eval_data: Data to judge by, if there are others.
        path: The model.
        model: What is in ``path``.
        target: Where it runs.
        fitted: How many of so many samples are calibrated on where the others judge.

    Raises:
        DataError: The data cannot be used, or hold one value only.
    """
    given = open_data(source, path, model, target)
    if not given.synthetic and _is_blank(given):
        raise DataError(
            "all values of the data are the same: no range and no accuracy follows from them",
            where=given.source,
            fix="give real inputs; `onnxopt doctor MODEL --data DATA` looks at them closely",
        )
    if eval_data is not None:
        judge = Source(eval_data, source.labels, source.preprocess, None, source.seed)
        return given, open_data(judge, path, model, target)
    calibration, held_back = split(given, calibration=fitted(len(given)), seed=source.seed, most=1.0)
    if len(given) == 1:
        note = "there is one sample, which was calibrated on and judged by: that says nothing of others"
        held_back = replace(held_back, notes=(*held_back.notes, note))
    return calibration, held_back


def spread(data: Dataset, count: int) -> Dataset:
    """At most ``count`` of the samples, evenly spaced."""
    return data.take(evenly(len(data), count))


def _is_blank(data: Dataset) -> bool:
    """Whether every input of the samples that are looked at holds one value, the same in all."""
    seen: dict[str, object] = {}
    for index in range(0, len(data), max(1, len(data) // LOOKED_AT)):
        for name, array in data[index].feeds.items():
            if not array.size:
                continue
            first = array.reshape(-1)[0]
            if not np.all(array == first) or seen.setdefault(name, first) != first:
                return False
    return bool(seen)
