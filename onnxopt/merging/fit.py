"""From a strategy and the members' answers to the combination that is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from onnxopt.core.query import opset
from onnxopt.core.report import JSON
from onnxopt.core.tensors import Array
from onnxopt.errors import DataError, UsageError
from onnxopt.evaluate.metrics import Metric, RowMetric
from onnxopt.merging.align import check_outputs
from onnxopt.merging.calls import Calls
from onnxopt.merging.forms import Activation, Form, Task, activation, find_task, forms_for
from onnxopt.merging.member import Member
from onnxopt.merging.points import points_of
from onnxopt.merging.rules import Combination, Linear, Votes
from onnxopt.merging.stack import fit_stack
from onnxopt.merging.strategies import Average, Cascade, Serial, Soup, Stack, Strategy, Vote, Weighted
from onnxopt.merging.weights import fit_weights

__all__ = ["Fitted", "Setting", "fit", "is_fitted", "setting_of"]


@dataclass(frozen=True)
class Setting:
    """What is known of the members before anything is fitted.

    Attributes:
        members: They.
        task: What they answer.
        found: Activation of each output.
        shapes: Of each output, on the first call.
        metric: How answers are judged, where there are labels.
        seed: Of all random choices.
    """

    members: tuple[Member, ...]
    task: Task
    found: tuple[tuple[Activation, int | None], ...]
    shapes: tuple[tuple[int, ...], ...]
    metric: Metric | None
    seed: int


@dataclass(frozen=True)
class Fitted:
    """A combination and what the fit says about itself.

    Attributes:
        combination: What is written.
        facts: Figures for the report.
    """

    combination: Combination
    facts: dict[str, JSON] = field(default_factory=dict[str, "JSON"])


def setting_of(
    members: Sequence[Member], calls: Calls, strategy: Strategy, *, seed: int, metric: Metric | None = None
) -> Setting:
    """What the first answers and the labels say of the members.

    Raises:
        ModelError: Outputs have different shapes or numbers of classes.
        DataError: The labels do not fit.
    """
    shapes = tuple(array.shape for array in calls.outputs[0])
    check_outputs(members, shapes)
    few = calls.outputs[:8]
    found = tuple(activation(member, [call[k] for call in few]) for k, member in enumerate(members))
    labels = None if calls.labels is None else calls.labels[0]
    on_logits = isinstance(strategy, Average | Weighted) and strategy.on == "probs"
    scores = isinstance(strategy, Vote | Cascade) or on_logits
    task = find_task(shapes[0], labels, found, scores=scores)
    return Setting(tuple(members), task, found, shapes, metric, seed)


def is_fitted(strategy: Strategy) -> bool:
    """Whether the combination depends on the labels."""
    match strategy:
        case Weighted():
            return isinstance(strategy.weights, str)
        case Stack() | Cascade() | Soup():
            return True
        case _:
            return False


def fit(strategy: Strategy, setting: Setting, calls: Calls) -> Fitted:
    """The combination that ``strategy`` makes of the members, on these answers.

    Raises:
        DataError: Labels are needed and missing, or do not fit.
        UsageError: The strategy does not fit these members.
    """
    task, count = setting.task, len(setting.members)
    match strategy:
        case Average():
            forms, _ = forms_for(task, strategy.on, setting.found, setting.shapes)
            return Fitted(Combination(tuple(range(count)), forms, Linear((1 / count,) * count)))
        case Weighted():
            forms, is_probs = forms_for(task, strategy.on, setting.found, setting.shapes)
            weights, facts = _weights(strategy, setting, calls, forms, is_share=is_probs or task.kind != "values")
            keep = tuple(k for k, w in enumerate(weights) if w > 0)
            chosen = tuple(float(weights[k]) for k in keep)
            return Fitted(Combination(keep, tuple(forms[k] for k in keep), Linear(chosen)), facts)
        case Vote():
            if task.kind == "values":
                raise UsageError(
                    "votes are for classes, and the outputs are values",
                    where="--strategy vote",
                    fix="use --strategy average",
                )
            forms, _ = forms_for(task, "probs", setting.found, setting.shapes)
            rule = Linear((1 / count,) * count)
            if strategy.kind == "hard":
                rule = Votes(task.axis if task.kind == "classes" else None)
            return Fitted(Combination(tuple(range(count)), forms, rule))
        case Stack():
            return Fitted(
                *fit_stack(
                    strategy.meta,
                    task,
                    setting.found,
                    setting.shapes,
                    calls,
                    setting.seed,
                    opset(setting.members[0].model),
                )
            )
        case Cascade() | Serial() | Soup():
            forms, _ = forms_for(task, "auto", setting.found, setting.shapes)
            return Fitted(Combination(tuple(range(count)), forms, Linear((1 / count,) * count)))
        case _:
            assert_never(strategy)


def _weights(
    strategy: Weighted, setting: Setting, calls: Calls, forms: Sequence[Form], *, is_share: bool
) -> tuple[Array, dict[str, JSON]]:
    count = len(setting.members)
    if not isinstance(strategy.weights, str):
        if len(strategy.weights) != count:
            raise UsageError(
                f"{len(strategy.weights)} weights for {count} models", where="--weights", fix="give one weight a model"
            )
        given = np.asarray(strategy.weights, np.float64)
        weights = given / given.sum()
        return weights, {"weights": weights.tolist()}
    if strategy.weights == "accuracy":
        scores = member_scores(setting, calls)
        if not sum(scores) > 0:
            raise DataError("no member is ever right", where="labels of the data", fix="check labels and classes")
        weights = np.asarray(scores) / sum(scores)
        return weights, {"weights": weights.tolist(), "scores": list(scores)}
    points = points_of(calls, forms, setting.task)
    weights, rho = fit_weights(points, setting.seed, is_share=is_share)
    return weights, {"weights": weights.tolist(), "rho": rho}


def member_scores(setting: Setting, calls: Calls) -> tuple[float, ...]:
    """The metric of each member by itself.

    Raises:
        DataError: There are no labels.
        UsageError: The metric is one of errors, of which no weight follows.
    """
    metric = setting.metric
    if calls.labels is None or metric is None:
        raise DataError(
            "weights by accuracy need labels and the data have none",
            where="labels of the data",
            fix="add labels (--labels KEY), or give the weights",
        )
    if not metric.higher_is_better:
        raise UsageError(
            f"{metric.name} is an error, and weights by accuracy need a score",
            where="--weights accuracy",
            fix="use --weights fitted",
        )
    scores: list[float] = []
    for k in range(len(setting.members)):
        outputs = [call[k] for call in calls.outputs]
        if isinstance(metric, RowMetric):
            rows = [metric.rows(y, t) for y, t in zip(outputs, calls.labels, strict=True)]
            scores.append(float(metric.score(np.sum([r.sum(axis=0) for r in rows], axis=0))))
        else:
            scores.append(metric.over(np.concatenate(outputs), np.concatenate(calls.labels)))
    return tuple(max(0.0, s) for s in scores)
