"""Character error rate: edit distance between recognised and true symbol sequences."""

from __future__ import annotations

import numpy as np

from onnxopt.errors import DataError
from onnxopt.evaluate.outputs import is_floating
from onnxopt.evaluate.rows import Array, Rows

__all__ = ["cer_rows", "ctc_greedy", "edit_distance"]

BLANK = 0


def cer_rows(outputs: Array, labels: Array) -> Rows:
    """``[edit distance, length of the label]`` an item.

    Args:
        outputs: ``(n, T, C)`` float scores (``(T, n, C)`` where only that fits), decoded greedily with blank 0; or
            ``(n, T)`` integer symbols.
        labels: ``(n, L)`` integer symbols. Negative numbers are padding on both sides.

    Raises:
        DataError: The shapes or types do not fit.
    """
    if labels.ndim == 1:
        labels = labels[None]
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise _unfit(f"labels {labels.dtype.name}{list(labels.shape)}", "integer symbols (n, L) padded with -1")
    if is_floating(outputs):
        if outputs.ndim != 3:
            raise _unfit(f"output {outputs.dtype.name}{list(outputs.shape)}", "a model with scores (n, T, C)")
        if len(outputs) != len(labels) and outputs.shape[1] == len(labels):
            outputs = np.moveaxis(outputs, 1, 0)
        found = [ctc_greedy(scores) for scores in outputs]
    elif outputs.dtype.kind in "iu":
        symbols = outputs[None] if outputs.ndim == 1 else outputs.reshape(len(outputs), -1)
        found = [row[row >= 0] for row in symbols]
    else:
        raise _unfit(f"output of type {outputs.dtype.name}", "an output of scores or integer symbols (--output-name)")
    if len(found) != len(labels):
        raise _unfit(f"{len(labels)} labels for {len(found)} sequences", "one row of labels per sequence")
    rows = np.zeros((len(found), 2))
    for i, (sequence, label) in enumerate(zip(found, labels, strict=True)):
        truth = label[label >= 0]
        rows[i] = edit_distance(sequence, truth), len(truth)
    return rows


def ctc_greedy(scores: Array) -> Array:
    """Best symbol of each step, repeats merged, then blanks dropped; ``(T, C)`` to ``(length,) int64``.

    Source: Graves et al. 2006, best path decoding.
    """
    path = scores.argmax(axis=-1)
    keep = np.ones(len(path), bool)
    keep[1:] = path[1:] != path[:-1]
    return path[keep & (path != BLANK)]


def edit_distance(first: Array, second: Array) -> int:
    """Least number of insertions, deletions and substitutions (Levenshtein) that turn one sequence into the other."""
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for symbol in first:
        through = np.empty_like(row)
        through[0] = row[0] + 1
        through[1:] = np.minimum(row[1:] + 1, row[:-1] + (second != symbol))
        row = np.minimum.accumulate(through - steps) + steps  # insertions: the best start to the left
    return int(row[-1])


def _unfit(found: str, wanted: str) -> DataError:
    return DataError(f"cer does not apply: {found}", where="labels of the data and --metric cer", fix=f"give {wanted}")
