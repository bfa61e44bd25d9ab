"""What weights and meta-models are fitted to: the brought outputs of all members beside the truth, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.errors import DataError
from onnxopt.merging.calls import Calls
from onnxopt.merging.forms import Form, Task

__all__ = ["Points", "folds", "points_of"]

MOST_POINTS = 20_000
"""Points of dense outputs (pixels) that a fit looks at, spread evenly over the calls."""
FOLDS = 5
FEWEST = 2


@dataclass(frozen=True)
class Points:
    """Members' outputs and the truth.

    Attributes:
        outputs: ``(n, K, C) float64``.
        truth: ``(n, C) float64``: one-hot classes, yes/no as 0 and 1, or values.
        groups: ``(n,) int64``: the item that a point belongs to; folds never part an item.
    """

    outputs: Array
    truth: Array
    groups: Array

    def take(self, chosen: Array) -> Points:
        """The points for which ``chosen`` holds."""
        return Points(self.outputs[chosen], self.truth[chosen], self.groups[chosen])


def points_of(calls: Calls, forms: Sequence[Form], task: Task) -> Points:
    """The points of labelled calls.

    Raises:
        DataError: There are no labels, or a class number is out of range.
    """
    if calls.labels is None:
        raise DataError(
            "fitting needs labels and the data have none",
            where="labels of the data",
            fix="add labels (--labels KEY), or give --strategy average or --weights",
        )
    outputs: list[Array] = []
    truths: list[Array] = []
    groups: list[Array] = []
    most = max(1, MOST_POINTS // max(1, calls.items))
    seen = 0
    for call, labels in zip(calls.outputs, calls.labels, strict=True):
        table = np.stack([form.compute(array) for form, array in zip(forms, call, strict=True)], axis=1)
        items = len(table)
        if task.kind == "classes":
            table = np.moveaxis(table, task.axis + 1, -1).reshape(items, len(forms), -1, table.shape[task.axis + 1])
            truth = labels.reshape(items, -1)
        else:
            table = table.reshape(items, len(forms), -1, 1)
            truth = labels.reshape(items, -1)
        places = np.linspace(0, truth.shape[1] - 1, min(most, truth.shape[1])).astype(np.int64)
        table, truth = table[:, :, places], truth[:, places]
        outputs.append(table.transpose(0, 2, 1, 3).reshape(-1, len(forms), table.shape[-1]))
        truths.append(_as_targets(truth.reshape(-1), task, table.shape[-1]))
        groups.append(np.repeat(np.arange(seen, seen + items), len(places)))
        seen += items
    found = Points(np.concatenate(outputs), np.concatenate(truths), np.concatenate(groups))
    finite = (np.isfinite(found.truth).all(axis=1), np.isfinite(found.outputs).all(axis=(1, 2)))
    known: Array = np.logical_and(*finite)
    if not known.any():
        raise DataError("no item has a label", where="labels of the data", fix="give class numbers from 0 up")
    found = found.take(known)
    if len(np.unique(found.groups)) < FEWEST:
        raise DataError("one labelled item is too few to fit to", where="labels of the data", fix="give more samples")
    return found


def _as_targets(truth: Array, task: Task, classes: int) -> Array:
    if task.kind != "classes":
        return truth.astype(np.float64)[:, None]
    numbers = truth.astype(np.int64)
    if numbers.max(initial=0) >= classes:
        raise DataError(
            f"the labels do not fit the outputs: label {int(numbers.max())} with {classes} classes",
            where="labels of the data",
            fix=f"give class numbers from 0 to {classes - 1}",
        )
    table = np.zeros((len(numbers), classes))
    table[np.arange(len(numbers)), np.maximum(numbers, 0)] = 1
    table[numbers < 0] = np.nan  # padding
    return table


def folds(groups: Array, seed: int, count: int = FOLDS) -> list[Array]:
    """For each fold which points belong to it; items stay whole."""
    names = np.unique(groups)
    place = np.random.default_rng(seed).permutation(len(names)) % min(count, len(names))
    of_point = place[np.searchsorted(names, groups)]
    return [of_point == k for k in range(int(place.max()) + 1)]
