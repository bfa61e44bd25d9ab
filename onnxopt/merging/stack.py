"""Stacking: a meta-model on the outputs of all members.

The built-in one is a logistic regression on log-probabilities, shrunk towards their mean instead of towards 0: with few
labels it is the mean, with many what the labels say. Full stacking without that overfits below about 100 samples a
class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxopt.core.report import JSON
from onnxopt.core.tensors import Array
from onnxopt.merging.calls import Calls
from onnxopt.merging.forms import Activation, Task, forms_for
from onnxopt.merging.points import Points, folds, points_of
from onnxopt.merging.rules import Combination, Logistic, Rule

__all__ = ["fit_logistic", "fit_stack"]

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Of the penalty on the distance from the mean, relative to the number of points."""


def fit_stack(
    meta: object,
    task: Task,
    found: Sequence[tuple[Activation, int | None]],
    shapes: Sequence[tuple[int, ...]],
    calls: Calls,
    seed: int,
    version: int,
) -> tuple[Combination, dict[str, JSON]]:
    """The combination with a meta-model fitted on labelled calls, and the strength of its penalty.

    Raises:
        DataError: There are no labels, or they do not fit.
    """
    count = len(shapes)
    if meta != "logistic":
        from onnxopt.merging.meta import meta_rule

        forms, _ = forms_for(task, "probs", found, shapes)
        rule: Rule = meta_rule(meta, task, forms, calls, version)
        return Combination(tuple(range(count)), forms, rule), {"meta": getattr(rule, "title", "given")}
    forms, _ = forms_for(task, "logits", found, shapes)
    points = points_of(calls, forms, task)
    errors = np.zeros(len(STRENGTHS))
    for held in folds(points.groups, seed):
        rest, part = points.take(~held), points.take(held)
        for i, strength in enumerate(STRENGTHS):
            errors[i] += _loss(part, *fit_logistic(rest, task, strength), task) * len(part.truth)
    strength = STRENGTHS[int(errors.argmin())]
    weight, bias = fit_logistic(points, task, strength)
    link = {"classes": "softmax", "sides": "sigmoid", "values": "same"}[task.kind]
    axis = task.axis if task.kind == "classes" else -1
    rule = Logistic(tuple(map(tuple, weight.tolist())), tuple(bias.tolist()), axis, link)
    return Combination(tuple(range(count)), forms, rule), {"strength": strength}


def fit_logistic(points: Points, task: Task, strength: float) -> tuple[Array, Array]:
    """Weight ``(K C, C)`` and bias ``(C,)`` of least log loss (values: squared error) plus the penalty.

    ``loss / n + strength / 2 (||W - M||^2 + ||b||^2)`` with ``M`` the mean of the members.
    """
    from scipy.optimize import minimize

    count, classes = points.outputs.shape[1:]
    table = points.outputs.reshape(len(points.outputs), -1)
    mean = np.tile(np.eye(classes) / count, (count, 1))
    start = np.concatenate([mean, np.zeros((1, classes))])
    rows = np.concatenate([table, np.ones((len(table), 1))], axis=1)
    scale = max(1.0, float(np.square(table).mean()))

    def objective(flat: Array) -> tuple[float, Array]:
        weight = flat.reshape(start.shape)
        value, slope = _objective(rows @ weight, points.truth, task)
        gap = weight - start
        value += 0.5 * strength * scale * float((gap * gap).sum())
        return value, (rows.T @ slope + strength * scale * gap).ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    weight = found.x.reshape(start.shape)
    return weight[:-1], weight[-1]


def _objective(scores: Array, truth: Array, task: Task) -> tuple[float, Array]:
    """Mean loss, and its slope by the scores."""
    count = len(scores)
    match task.kind:
        case "classes":
            shifted = scores - scores.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            return float(-(truth * logs).sum() / count), (np.exp(logs) - truth) / count
        case "sides":
            loss = np.logaddexp(0.0, scores) - truth * scores
            return float(loss.sum() / count), (np.exp(-np.logaddexp(0.0, -scores)) - truth) / count
        case "values":
            gap = scores - truth
            return float(0.5 * (gap * gap).sum() / count), gap / count


def _loss(points: Points, weight: Array, bias: Array, task: Task) -> float:
    table = points.outputs.reshape(len(points.outputs), -1)
    return _objective(table @ weight + bias, points.truth, task)[0]
