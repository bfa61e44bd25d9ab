"""What one pass over the data gathers of one model, and the comparison that two of them give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxopt.errors import DataError
from onnxopt.evaluate.bounds import Discordant, count_discordant, drop_bound
from onnxopt.evaluate.drift import OutputDrift
from onnxopt.evaluate.flips import FlipMeter
from onnxopt.evaluate.metrics import Metric, RowMetric, WholeMetric, score_drop
from onnxopt.evaluate.outputs import as_array
from onnxopt.evaluate.rows import Array, RowBuffer, paired_rows

__all__ = ["ROUNDING", "Comparison", "Tally", "conclude"]

ROUNDING = 1e-9
"""Differences of scores below this are rounding."""


@dataclass(frozen=True)
class Comparison:
    """How a candidate compares with its reference.

    Attributes:
        metric: Name of the metric.
        higher_is_better: Whether more of the metric is better.
        relative: Whether ``drop`` is relative to the reference's score instead of absolute.
        output: The output that was judged.
        samples: Items that were judged.
        reference_score: Score of the reference.
        candidate_score: Score of the candidate.
        drop: How much worse the candidate is; negative where it is better.
        drop_bound: One-sided 95 % upper bound of ``drop``; ``None`` where there is none.
        discordant: Items on which just one of the models is right, for right-or-wrong metrics.
        expected_drop: The drop that margins and errors of these items let expect on others (``flips``); ``None`` where
            they do not tell.
        expected_error: The standard error of that: few items tell little of others.
        drift: Distance of the two models at each output; empty where not asked for.
    """

    metric: str
    higher_is_better: bool
    relative: bool
    output: str
    samples: int
    reference_score: float
    candidate_score: float
    drop: float
    drop_bound: float | None
    discordant: Discordant | None
    drift: tuple[OutputDrift, ...]
    expected_drop: float | None = None
    expected_error: float | None = None

    @property
    def cautious_drop(self) -> float:
        """The drop, or what may be expected on samples that were not seen where that is more."""
        return max(self.drop, (self.expected_drop or 0.0) + (self.expected_error or 0.0))

    def is_within(self, budget: float) -> bool:
        """Whether the drop (its point estimate) is at most ``budget``: 0.90 is within 0.10 of 1.00, also in binary."""
        return self.drop <= budget + ROUNDING

    def promises(self, budget: float) -> bool:
        """Whether on samples that were not seen, too, the drop is expected to be at most ``budget``.

        The estimate counts with its standard error: of many forms the one that looks best on few samples is taken.
        """
        return self.is_within(budget) and (self.expected_drop is None or self.cautious_drop <= budget + ROUNDING)


@dataclass
class Tally:
    """Rows of sums, or for a user's function the outputs themselves; mutable because calls stream in.

    Attributes:
        metric: The metric that is applied.
        output: Name of the output it judges.
        rows: Rows of all calls so far.
        counts: Items of each call.
        outputs: Primary output of each call, for a user's function only.
        score: The score once known.
    """

    metric: Metric
    output: str
    rows: RowBuffer = field(default_factory=RowBuffer)
    counts: list[int] = field(default_factory=list[int])
    outputs: list[Array] = field(default_factory=list[Array])
    score: float = math.nan

    def take(self, outputs: Mapping[str, object], truth: Array | None) -> None:
        """Adds one call; ``truth``: labels, or the reference's output for agreement.

        Raises:
            DataError: The labels do not fit.
        """
        array = as_array(outputs[self.output], self.output)
        if isinstance(self.metric, WholeMetric):
            self.outputs.append(array)
            self.counts.append(len(array))
            return
        if truth is None:
            raise DataError("there are no labels", where="labels of the data", fix="give every sample its labels")
        if self.metric.against_reference and array.shape != truth.shape:
            rows = np.tile([0.0, 1.0], (len(truth), 1))  # sizes that follow from values: not the reference's answer
        else:
            rows = self.metric.rows(array, truth)
        self.rows.add(rows)
        self.counts.append(len(rows))

    def final_score(self, labels: list[Array]) -> float:
        """The score over all calls; ``labels``: those of all calls, for a user's function.

        Raises:
            DataError: The user's function fails.
        """
        if not isinstance(self.metric, WholeMetric):
            return float(self.metric.score(self.rows.rows().sum(axis=0)))
        return self.metric.over(np.concatenate(self.outputs), np.concatenate(labels) if labels else None)


def conclude(
    reference: Tally, candidate: Tally, drift: tuple[OutputDrift, ...], flips: FlipMeter, *, seed: int
) -> Comparison:
    """The comparison that two scored tallies of the same calls give; ``seed``: of the bootstrap."""
    metric = candidate.metric
    bound, discordant = None, None
    if isinstance(metric, RowMetric):
        first, second = paired_rows(reference.rows, candidate.rows)
        discordant = count_discordant(metric, first, second)
        bound = drop_bound(metric, first, second, seed=seed)
    expected = flips.expected_drop() or (None, None)
    return Comparison(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        relative=metric.relative,
        output=candidate.output,
        samples=sum(candidate.counts),
        reference_score=reference.score,
        candidate_score=candidate.score,
        drop=float(score_drop(metric, reference.score, candidate.score)),
        drop_bound=bound,
        discordant=discordant,
        drift=drift,
        expected_drop=expected[0],
        expected_error=expected[1],
    )
