"""Rows of the metrics over classes: top-k, threshold accuracy, equality, F1 and recall.

Class scores are ``(n, C)``, ``(n, ..., C)`` or ``(n, C, ...)`` floats; one column ``(n,)`` or ``(n, 1)`` is cut at a
threshold; integers, booleans and strings are predictions as they stand. Labels are class numbers, without the class
axis; where an item has several, negative numbers are padding. A NaN among the scores is a wrong prediction.
"""

from __future__ import annotations

import numpy as np

from onnxopt.errors import DataError
from onnxopt.evaluate.outputs import is_floating
from onnxopt.evaluate.rows import Array, Rows

__all__ = [
    "accuracy_rows",
    "confusion_rows",
    "equal_rows",
    "f1_score",
    "recall_score",
    "same_class_rows",
    "same_side_rows",
    "topk_rows",
]

NONE = -1
"""The prediction of an item whose scores hold a NaN."""


def topk_rows(outputs: Array, labels: Array, k: int) -> Rows:
    """``[right, entries]`` an item: the label is among the ``k`` largest scores (ties: the lower class first).

    Raises:
        DataError: The labels do not fit the outputs.
    """
    scores, truth = _scores_and_labels(outputs, labels)
    padding = _padding(truth)
    _check_range(truth, scores.shape[-1], padding)
    index = np.where(padding, 0, truth).reshape(-1)
    table = scores.reshape(len(index), -1)
    own = table[np.arange(len(index)), index][:, None]
    ahead = (table > own) | ((table == own) & (np.arange(table.shape[1]) < index[:, None]))
    best = (ahead.sum(axis=1) < k) & ~np.isnan(table).any(axis=1)
    right = best.reshape(truth.shape) & ~padding
    return _item_sums(right, ~padding)


def accuracy_rows(outputs: Array, labels: Array, threshold: float) -> Rows:
    """``[right, entries]`` an item for one score column, or for outputs that are predictions already."""
    if not is_floating(outputs):
        truth = _same_size(outputs, labels)
        padding = _padding(truth) if truth.dtype.kind in "iu" else np.zeros(truth.shape, bool)
        return _item_sums((outputs == truth) & ~padding, ~padding)
    predicted, truth = _binary(outputs, labels, threshold)
    return _item_sums(predicted == truth, np.ones(truth.shape, bool))


def equal_rows(outputs: Array, reference: Array) -> Rows:
    """``[share of equal elements, 1]`` an item."""
    same = _item_sums(outputs == reference, np.ones(outputs.shape, bool))
    share = np.divide(same[:, 0], same[:, 1], out=np.ones(len(same)), where=same[:, 1] > 0)
    return np.stack([share, np.ones(len(same))], axis=1)


def same_class_rows(outputs: Array, reference: Array) -> Rows:
    """``[same largest class, 1]`` an item for two score arrays ``(n, C)``."""
    return _item_sums(_largest(outputs) == _largest(reference), np.ones(len(outputs), bool))


def same_side_rows(outputs: Array, reference: Array, threshold: float) -> Rows:
    """``[same side of the threshold, 1]`` an item for two score columns ``(n,)`` or ``(n, 1)``."""
    same = _side(outputs, threshold) == _side(reference, threshold)
    return _item_sums(same, np.ones(same.shape, bool))


def confusion_rows(outputs: Array, labels: Array, threshold: float) -> Rows:
    """``[tp, fp, fn]`` of class 0, of class 1, ... an item, ``(n, 3 C)``; two classes where there is one column.

    Labels of the shape of two or more probability columns are several yes/no labels an item (counted together).

    Raises:
        DataError: The labels do not fit the outputs, or are strings.
    """
    if not is_floating(outputs):
        predicted, truth = outputs, _integer(_same_size(outputs, labels))
        predicted = _integer(predicted)
        classes = max(2, int(max(predicted.max(initial=0), truth.max(initial=0))) + 1)
    elif _is_column(outputs) or outputs.shape == labels.shape:
        predicted, truth = _binary(outputs, labels, threshold)
        classes = 2
    else:
        scores, truth = _scores_and_labels(outputs, labels)
        predicted, classes = _largest(scores), scores.shape[-1]
    padding = _padding(truth)
    _check_range(truth, classes, padding)
    items = len(truth)
    item = np.broadcast_to(np.arange(items).reshape(-1, *[1] * (truth.ndim - 1)), truth.shape)[~padding]
    predicted, truth = predicted[~padding].astype(np.int64), truth[~padding].astype(np.int64)
    right, given = predicted == truth, predicted >= 0
    right, given = predicted == truth, predicted >= 0
    truth_at, predicted_at = (item * classes + truth) * 3, (item * classes + predicted) * 3
    cells = np.concatenate([truth_at[right], predicted_at[~right & given] + 1, truth_at[~right] + 2])
    counts = np.bincount(cells, minlength=items * classes * 3)
    return counts.reshape(items, classes * 3).astype(np.float64)


def f1_score(sums: Rows) -> Rows:
    """F1 of class 1 for two classes, else the mean over the classes that occur; ``(..., 3 C)`` to ``(...)``.

    F1 = 2 tp / (2 tp + fp + fn); NaN where no class occurs.
    """
    table = _per_class(sums)
    return _mean_ratio(2 * table[..., 0], 2 * table[..., 0] + table[..., 1] + table[..., 2])


def recall_score(sums: Rows) -> Rows:
    """Recall tp / (tp + fn) of class 1 for two classes, else the mean over the classes with labels."""
    table = _per_class(sums)
    return _mean_ratio(table[..., 0], table[..., 0] + table[..., 2])


def _per_class(sums: Rows) -> Rows:
    table = sums.reshape(*sums.shape[:-1], -1, 3)
    return table[..., 1:, :] if table.shape[-2] == 2 else table


def _mean_ratio(part: Rows, whole: Rows) -> Rows:
    occurs = whole > 0
    ratio = np.divide(part, whole, out=np.zeros(whole.shape), where=occurs)
    count = np.asarray(occurs.sum(axis=-1), np.float64)
    undefined: Rows = np.full(count.shape, np.nan)
    return np.divide(ratio.sum(axis=-1), count, out=undefined, where=count > 0)


def _item_sums(right: Array, counted: Array) -> Rows:
    items = len(right)
    shape = (items, right.size // max(1, items))
    return np.stack([a.reshape(shape).sum(axis=1, dtype=np.float64) for a in (right, counted)], axis=1)


def _largest(scores: Array) -> Array:
    return np.where(np.isnan(scores).any(axis=-1), NONE, scores.argmax(axis=-1))


def _side(scores: Array, threshold: float) -> Array:
    return np.where(np.isnan(scores), NONE, scores > threshold)


def _is_column(outputs: Array) -> bool:
    return outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)


def _binary(outputs: Array, labels: Array, threshold: float) -> tuple[Array, Array]:
    truth = _integer(_same_size(outputs, labels))
    _check_range(truth, 2, np.zeros(truth.shape, bool))
    return _side(outputs, threshold), truth


def _same_size(outputs: Array, labels: Array) -> Array:
    if labels.size != outputs.size or (labels.ndim > 1 and len(labels) != len(outputs)):
        raise _unfit(f"labels {list(labels.shape)} for outputs {list(outputs.shape)}", "one label per predicted value")
    return labels.reshape(outputs.shape)


def _scores_and_labels(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Scores with the class axis last and integer labels of the shape of the other axes."""
    truth = _integer(labels)
    if outputs.ndim == 2 and truth.size == len(outputs):
        return outputs, truth.reshape(-1)
    if truth.shape == outputs.shape[:-1]:
        return outputs, truth
    if truth.shape == outputs.shape[:1] + outputs.shape[2:]:
        return np.moveaxis(outputs, 1, -1), truth
    raise _unfit(
        f"labels {list(labels.shape)} for class scores {list(outputs.shape)}",
        "one class number per item: the shape of the output without its class axis",
    )


def _integer(labels: Array) -> Array:
    if labels.dtype.kind not in "iub":
        raise _unfit(f"labels of type {labels.dtype.name}", "integer class numbers (convert them when saving)")
    return labels.astype(np.int64)


def _padding(truth: Array) -> Array:
    return truth < 0 if truth.ndim > 1 else np.zeros(truth.shape, bool)


def _check_range(truth: Array, classes: int, padding: Array) -> None:
    bad = truth[~padding & ((truth < 0) | (truth >= classes))]
    if bad.size:
        raise _unfit(f"label {int(bad.flat[0])} with {classes} classes", f"class numbers from 0 to {classes - 1}")


def _unfit(found: str, wanted: str) -> DataError:
    return DataError(f"the labels do not fit the output: {found}", where="labels of the data", fix=f"give {wanted}")
