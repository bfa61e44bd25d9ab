"""Whether an ensemble beats the best of its members on items that its fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.errors import DataError
from onnxopt.evaluate.bounds import drop_bound
from onnxopt.evaluate.metrics import Metric, RowMetric
from onnxopt.evaluate.rows import Rows
from onnxopt.merging.calls import Calls
from onnxopt.merging.points import folds

__all__ = ["Judgement", "judge"]

EQUAL = 1e-12
FEWEST = 2


@dataclass(frozen=True)
class Judgement:
    """The ensemble against the best single member, on held-back items.

    Attributes:
        metric: Name of the metric.
        higher_is_better: Whether more of it is better.
        items: Items that were judged.
        way: How they were held back, in words.
        ensemble: Score of the ensemble.
        best: Score of the member that would have been chosen without looking at the held-back items.
        members: Score of each member on the same items.
        bound: One-sided 95 % upper bound of how much worse than ``best`` the ensemble is; negative: better for certain.
    """

    metric: str
    higher_is_better: bool
    items: int
    way: str
    ensemble: float
    best: float
    members: tuple[float, ...]
    bound: float | None

    @property
    def is_better(self) -> bool:
        """Whether the ensemble scores above the best member."""
        gain = self.ensemble - self.best if self.higher_is_better else self.best - self.ensemble
        return gain > EQUAL

    @property
    def is_not_worse(self) -> bool:
        """Whether the ensemble scores at least as the best member."""
        gain = self.ensemble - self.best if self.higher_is_better else self.best - self.ensemble
        return gain >= -EQUAL


class Answers(Protocol):
    """What gives an ensemble's output."""

    def compute(self, outputs: Sequence[Array]) -> Array:
        """It, from the outputs of all members."""
        ...


Fit = Callable[[Calls], Answers]


def judge(fit: Fit, calls: Calls, metric: Metric, seed: int, *, held_back: Calls | None = None) -> Judgement:
    """Fits on some calls and judges on others: those of ``held_back``, or by cross-fitting in five parts.

    In each part the best member is the one that is best on the other parts, as someone without held-back data would
    choose it.

    Raises:
        DataError: There is one call only, so that nothing can be held back.
    """
    if held_back is not None:
        parts = [(fit(calls), calls, held_back)]
        way = "on the evaluation data"
    elif len(calls.outputs) < FEWEST:
        raise DataError(
            "the data are one sample: nothing is left to judge by",
            where="labelled data",
            fix="give more samples, or others with --eval-data",
        )
    else:
        flags = folds(np.arange(len(calls.outputs)), seed)
        splits = [(np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()) for held in flags]
        pairs = [(calls.take(rest), calls.take(part)) for rest, part in splits if rest]
        parts = [(fit(rest), rest, part) for rest, part in pairs]
        way = f"each item by what was fitted on the other {len(parts) - 1} of {len(parts)} parts"
    together: list[Array] = []
    chosen: list[Array] = []
    each: list[list[Array]] = []
    truth: list[Array] = []
    for combination, rest, part in parts:
        best = _best(metric, rest)
        together += [combination.compute(call) for call in part.outputs]
        chosen += [call[best] for call in part.outputs]
        each += [list(call) for call in part.outputs]
        truth += list(part.labels or ())
    scores = tuple(_score(metric, [call[k] for call in each], truth) for k in range(len(each[0])))
    bound = None
    if isinstance(metric, RowMetric):
        first, second = (_rows(metric, outputs, truth) for outputs in (chosen, together))
        bound = drop_bound(metric, first, second, seed=seed)
    return Judgement(
        metric.name,
        metric.higher_is_better,
        sum(len(t) for t in truth),
        way,
        _score(metric, together, truth),
        _score(metric, chosen, truth),
        scores,
        bound,
    )


def _best(metric: Metric, calls: Calls) -> int:
    labels = calls.labels or ()
    scores = [_score(metric, [call[k] for call in calls.outputs], labels) for k in range(len(calls.outputs[0]))]
    return int(np.argmax(scores) if metric.higher_is_better else np.argmin(scores))


def _rows(metric: RowMetric, outputs: Sequence[Array], truth: Sequence[Array]) -> Rows:
    return np.concatenate([metric.rows(y, t) for y, t in zip(outputs, truth, strict=True)])


def _score(metric: Metric, outputs: Sequence[Array], truth: Sequence[Array]) -> float:
    if isinstance(metric, RowMetric):
        return float(metric.score(_rows(metric, outputs, truth).sum(axis=0)))
    return metric.over(np.concatenate(outputs), np.concatenate(truth))
