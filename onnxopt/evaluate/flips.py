"""How many items a candidate is expected to decide otherwise, from margins and errors instead of from counted flips.

Few samples hold few flips, or none, but each tells how far its largest score is ahead of the others (the margin) and
how far the candidate's scores are off (the error). An item flips when the error of a difference of scores exceeds its
margin, so every margin is met with the errors of many items:

    share = mean over items i and k of [argmax(scores_i + error_k * size_i / size_k) is not that of scores_i],

with scores and errors in the order of the reference's ranks (errors of large scores are larger), and ``size`` the root
mean square of an item's errors over its classes (items differ in how far they are off). Measured by
``benchmarks/flips.py``: from 32 samples the estimate misses the share of flips among the unseen ones by 5 to 28 % less
than the count does (by as much where hardly any item flips).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxopt.evaluate.rows import Array, Rows

__all__ = ["FlipMeter", "log_odds", "log_probabilities", "plain_scores"]

RANKS = 32
"""Classes of an item that are kept: those behind do not come first."""
ERRORS = 64
"""Errors that each margin meets."""
MOST_ITEMS = 20_000
"""So many items are counted precisely enough."""
SMALLEST = 1e-6
"""Probabilities below are as good as this: their logarithm says nothing."""


def plain_scores(outputs: Array) -> Rows:
    """Class scores as they are, ``(n, C)``, or a column ``(n,)`` or ``(n, 1)`` cut at zero as two classes."""
    scores = outputs.astype(np.float64)
    if scores.ndim == 2 and scores.shape[1] > 1:
        return scores
    column = scores.reshape(-1)
    return np.stack([np.zeros_like(column), column], axis=1)


def log_probabilities(outputs: Array) -> Rows:
    """The logarithm of probabilities ``(n, C)``: differences are those of the logits, whose errors are more alike."""
    return np.log(np.maximum(outputs.astype(np.float64), SMALLEST))


def log_odds(outputs: Array) -> Rows:
    """Two classes of a column of probabilities ``(n,)`` or ``(n, 1)``, as ``log_probabilities``."""
    column = outputs.astype(np.float64).reshape(-1)
    return log_probabilities(np.stack([1 - column, column], axis=1))


@dataclass
class FlipMeter:
    """Takes the class scores of both models call by call; mutable because they stream in.

    Attributes:
        items: Items so far.
        usable: Whether all of them could be used.
    """

    items: int = 0
    usable: bool = True
    _scores: list[Rows] = field(default_factory=list[Rows])
    _errors: list[Rows] = field(default_factory=list[Rows])
    _sizes: list[Rows] = field(default_factory=list[Rows])
    _right: list[Array] = field(default_factory=list[Array])

    def update(self, reference: Rows, candidate: Rows, labels: Array | None) -> None:
        """Adds one call.

        Args:
            reference: (n, C) float64, scores of the reference.
            candidate: The same of the candidate.
            labels: (n,) class numbers; ``None``: right is what the reference says.
        """
        self.items += len(reference)
        fits = reference.shape == candidate.shape and (labels is None or labels.size == len(reference))
        finite = fits and bool(np.isfinite(reference).all() and np.isfinite(candidate).all())
        self.usable &= finite and self.items <= MOST_ITEMS
        if not self.usable or not reference.size:
            return
        order = np.argsort(-reference, axis=1, kind="stable")[:, :RANKS]
        error = candidate - reference
        self._scores.append(np.take_along_axis(reference, order, axis=1))
        self._errors.append(np.take_along_axis(error, order, axis=1))
        self._sizes.append(error.std(axis=1))
        first = np.zeros(order.shape[1], np.int64)
        first[0] = 1
        right = np.broadcast_to(first == 1, order.shape) if labels is None else order == labels.reshape(-1, 1)
        self._right.append(right)

    def expected_drop(self) -> tuple[float, float] | None:
        """How much accuracy (without labels: agreement) falls on average, and the standard error of that.

        ``None``: the items do not tell. Of items that both models get wrong nothing is known but that: they count on
        neither side.
        """
        if not self.usable or not self._scores:
            return None
        scores, errors, sizes = (np.concatenate(part) for part in (self._scores, self._errors, self._sizes))
        right, count = np.concatenate(self._right), len(scores)
        hits, shifts = np.zeros(count), min(count, ERRORS)
        for shift in range(shifts):
            other = np.roll(np.arange(count), -shift)
            scale = np.divide(sizes, sizes[other], out=np.ones(count), where=sizes[other] > 0)
            moved = scores + errors[other] * scale[:, None]
            hits += right[np.arange(count), moved.argmax(axis=1)]
        lost = right[:, 0] - hits / shifts
        return float(lost.mean()), float(lost.std() / np.sqrt(count))
