"""When a cascade may stop: after each member, for items on which the mean of those so far leads clearly enough.

The mean of ``s`` of ``K`` members differs from the mean of all by chance with the variance ``v (1/s - 1/K)`` (a sample
without replacement). So the lead of the likeliest class over the next must reach ``t sqrt(1/s - 1/K)`` after ``s``
members: one number ``t`` is fitted, whatever the number of members. On digits this takes 21 % and 39 % of the cost of
all members where one threshold on the largest probability takes 44 % and 48 %, at no greater loss
(``benchmarks/ensemble.py``). Source of cascades: Wang et al., "Wisdom of Committees" (ICLR 2022).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.errors import DataError, UsageError
from onnxopt.merging.calls import Calls
from onnxopt.merging.forms import Form, Task
from onnxopt.merging.strategies import Cascade

__all__ = ["Exits", "choose_exits"]

CANDIDATES = 64
"""Thresholds that are tried, evenly spaced among the confidences that occur."""
LABELS = 0.25
"""Their part in the loss: half costs 6 points more of the members, none loses 0.55 instead of 0.37 points."""


@dataclass(frozen=True)
class Exits:
    """Which member runs when.

    Attributes:
        order: Places of the members, cheap ones first.
        forms: How the output of each of these becomes probabilities.
        threshold: The confidence that ends it, or ``t``.
        costs: Share of the cost of all members that each of these takes.
        is_sides: Outputs say yes or no: the confidence is that of the likelier side.
        measure: ``"lead"``: the likeliest answer before the next one, against ``t sqrt(1/s - 1/K)``;
            ``"probability"``: that of the likeliest answer, against the same number after each member.
    """

    order: tuple[int, ...]
    forms: tuple[Form, ...]
    threshold: float
    costs: tuple[float, ...]
    is_sides: bool
    measure: Literal["lead", "probability"] = "lead"

    @property
    def limits(self) -> tuple[float, ...]:
        """The confidence that ends it after 1, 2, ... members."""
        count = len(self.order)
        if self.measure == "probability":
            return (self.threshold,) * (count - 1)
        leads = [self.threshold * scale for scale in _scales(count)]
        return tuple((1 + lead) / 2 for lead in leads) if self.is_sides else tuple(leads)

    def run(self, outputs: Sequence[Array]) -> tuple[Array, Array]:
        """The answers, and the number of members that each took, from the outputs of all members."""
        brought = [form.compute(outputs[k]) for k, form in zip(self.order, self.forms, strict=True)]
        total = np.zeros_like(brought[0])
        open_ = np.ones(len(total), bool)
        used = np.zeros(len(total), np.int64)
        answers = np.zeros_like(total)
        limits = (*self.limits, -1.0)
        for count, probabilities in enumerate(brought, 1):
            total[open_] += probabilities[open_]
            used[open_] = count
            answers[open_] = total[open_] / count
            open_ &= self.confidence(answers) < limits[count - 1]
        return answers, used

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The answers alone."""
        return self.run(outputs)[0]

    def confidence(self, answers: Array) -> Array:
        """The probability of the likeliest answer of each item, or how far it leads (sides: always the former)."""
        flat = answers.reshape(len(answers), -1)
        if self.is_sides:
            return np.maximum(flat, 1 - flat).min(axis=1)
        if self.measure == "probability":
            return flat.max(axis=1)
        first_two = np.partition(flat, -2, axis=1)[:, -2:]
        return first_two[:, 1] - first_two[:, 0]

    def cost(self, used: Array) -> float:
        """The mean share of the cost of all members."""
        return float(np.cumsum(self.costs)[used - 1].mean())


def choose_exits(
    strategy: Cascade, task: Task, forms: Sequence[Form], costs: Sequence[float], calls: Calls
) -> tuple[Exits, dict[str, float]]:
    """The exits with the lowest threshold that keeps the goal, and what they cost and lose on these calls.

    The loss of an item is how much less probable, to all members together, its answer is than theirs (and with labels
    for a quarter the change in being right, which is noisier but sees what all members together get wrong).
    The goal is kept by its upper confidence bound: ``mean + z s / sqrt(n) <= max_drop``, at that threshold and at all
    higher ones: the first that fails ends the search, so that no low one passes by luck (fixed sequence testing;
    Angelopoulos et al., "Learn then Test", 2021).

    Raises:
        UsageError: The outputs are values, or maps.
        DataError: The data have too few items.
    """
    if task.kind == "values":
        raise UsageError(
            "a cascade needs a confidence, and the outputs are values", where="--strategy cascade", fix="use weighted"
        )
    shape = calls.outputs[0][0].shape
    if task.kind == "classes" and sum(n > 1 for n in shape[1:]) > 1:
        raise UsageError(
            f"a cascade decides by item, and an item of the output {list(shape)} has many answers",
            where="--strategy cascade",
            fix="use average or weighted for maps",
        )
    order = tuple(int(k) for k in np.argsort(np.asarray(costs), kind="stable"))
    start = Exits(order, tuple(forms[k] for k in order), 1.0, tuple(costs[k] for k in order), task.kind == "sides")
    if strategy.threshold is not None:
        return replace(start, threshold=strategy.threshold, measure="probability"), {}
    table = [np.concatenate([call[k] for call in calls.outputs]) for k in range(len(forms))]
    labels = None if calls.labels is None else np.concatenate([np.ravel(t) for t in calls.labels])
    never = 2.0 * len(order)  # above 1 with the smallest scale
    full = _at(start, never).compute(table)
    means = [_at(start, never, stage).compute(table) for stage in range(1, len(order))]
    leads = [_lead(start, mean) / scale for mean, scale in zip(means, _scales(len(order)), strict=True)]
    tried = [*_between(np.concatenate(leads)), never]
    best, figures = _at(start, tried[-1]), dict[str, float]()
    for threshold in reversed(tried):
        exits = _at(start, threshold)
        answers, used = exits.run(table)
        share, bound = exits.cost(used), _bound(full, answers, labels, strategy.confidence, is_sides=start.is_sides)
        if strategy.max_cost is None and bound > strategy.max_drop:
            break
        if strategy.max_cost is None or share <= strategy.max_cost:
            best, figures = exits, {"cost": share, "drop_bound": bound}
            if strategy.max_cost is not None:
                break
    if not figures:
        if strategy.max_cost is not None:
            raise UsageError(
                f"no threshold costs {strategy.max_cost:g} of all members: the first takes {start.costs[0]:.3g}",
                where="--max-cost",
                fix="give more, or a cheaper first member",
            )
        answers, used = best.run(table)
        figures = {
            "cost": best.cost(used),
            "drop_bound": _bound(full, answers, labels, strategy.confidence, is_sides=start.is_sides),
        }
    return best, figures


def _scales(count: int) -> list[float]:
    """``sqrt(1/s - 1/K)`` for ``s = 1 .. K - 1``."""
    return [math.sqrt(1 / s - 1 / count) for s in range(1, count)]


def _lead(exits: Exits, answers: Array) -> Array:
    found = exits.confidence(answers)
    return 2 * found - 1 if exits.is_sides else found


def _at(exits: Exits, threshold: float, stages: int | None = None) -> Exits:
    count = len(exits.order) if stages is None else stages
    order, forms, costs = exits.order[:count], exits.forms[:count], exits.costs[:count]
    return replace(exits, order=order, forms=forms, threshold=threshold, costs=costs)


def _between(confidences: Array) -> list[float]:
    """Thresholds between confidences that occur, so that rounding decides no item."""
    found = np.unique(confidences)
    if len(found) < 2:
        raise DataError(
            "the members are equally sure of all items, so no threshold can be chosen",
            where="--data",
            fix="give more and other samples, or --threshold",
        )
    middle = (found[1:] + found[:-1]) / 2
    wide = middle[(found[1:] - found[:-1]) > 1e-5]
    places = np.linspace(0, len(wide) - 1, min(CANDIDATES, len(wide))).astype(np.int64)
    return [float(t) for t in np.unique(wide[places])] if len(wide) else []


def _bound(full: Array, answers: Array, labels: Array | None, confidence: float, *, is_sides: bool) -> float:
    """Upper confidence bound of how much less accurate the answers are than those of all members together."""
    first, second = full.reshape(len(full), -1), answers.reshape(len(full), -1)
    if is_sides:
        first, second = (np.concatenate([1 - p[:, :1], p[:, :1]], axis=1) for p in (first, second))
    rows = np.arange(len(first))
    own, other = first.argmax(axis=1), second.argmax(axis=1)
    losses = first[rows, own] - first[rows, other]
    if labels is not None and len(labels) == len(losses):
        changes = (own == labels).astype(np.float64) - (other == labels)
        losses = (1 - LABELS) * losses + LABELS * changes
    z = statistics.NormalDist().inv_cdf(confidence)
    return float(losses.mean() + z * losses.std() / np.sqrt(len(losses)))
