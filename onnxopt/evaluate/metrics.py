"""Metrics: what they are, which one fits a model and its labels, and the drop between two scores.

A metric turns the primary output of each model call and the truth of that call into rows of sums; the score is a
function of the column sums, so that one table gives the score, the paired bound and any regrouping. The truth is the
labels, or for ``agreement`` the output of the reference model: its score bounds the drop of accuracy,
|acc_ref - acc_cand| <= 1 - agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import numpy as np

from onnxopt.core.plugins import load_function
from onnxopt.errors import DataError, UsageError, nearest
from onnxopt.evaluate import classes, flips, values
from onnxopt.evaluate.outputs import is_floating, is_number
from onnxopt.evaluate.rows import Array, Rows
from onnxopt.evaluate.sequences import cer_rows

__all__ = ["METRICS", "Metric", "RowMetric", "WholeMetric", "choose_metric", "score_drop"]

METRICS = ("top1", "top5", "f1", "recall", "mae", "rmse", "cosine", "cer", "agreement")
AGREEMENTS = ("top1", "threshold", "equal", "cosine")


@dataclass(frozen=True)
class RowMetric:
    """A metric over column sums.

    Attributes:
        name: As reported.
        rows: ``(outputs, truth)`` of one model call to ``(n, k) float64``.
        score: Column sums ``(..., k)`` to scores ``(...)``.
        against_reference: The truth is the reference model's output instead of the labels.
        higher_is_better: Whether more is better.
        relative: The drop is relative to the reference's score (scores with a unit), else absolute.
        counts: Items are right or wrong or partly so: equal rows on all items still leave a doubt of about 3 / n.
        proportion: Each row is ``[0 or 1, 1]`` where an item has one answer: discordant pairs can be counted.
        class_scores: Outputs to ``(n, C)`` scores of which the largest decides, in units in which errors are alike
            (``flips``); ``None``: no class is decided.
    """

    name: str
    rows: Callable[[Array, Array], Rows]
    score: Callable[[Rows], Rows]
    against_reference: bool = False
    higher_is_better: bool = True
    relative: bool = False
    counts: bool = True
    proportion: bool = False
    class_scores: Callable[[Array], Rows] | None = None


@dataclass(frozen=True)
class WholeMetric:
    """A user's function over the outputs and labels (``None`` without) of all samples together; more is better."""

    name: str
    function: Callable[[Array, Array | None], float]
    against_reference: bool = False
    higher_is_better: bool = True
    relative: bool = False

    def over(self, outputs: Array, labels: Array | None) -> float:
        """The score of all samples together.

        Raises:
            DataError: The user's function fails.
        """
        try:
            return float(self.function(outputs, labels))
        except Exception as error:  # the user's code
            raise DataError(
                f"the metric function failed: {type(error).__name__}: {error}",
                where=f"--metric {self.name}",
                fix="make it take (outputs, labels), concatenated over all samples, and return one number",
            ) from error


Metric: TypeAlias = RowMetric | WholeMetric


def score_drop(metric: Metric, reference: Rows | float, candidate: Rows | float) -> Rows:
    """How much worse the candidate scores, of the shape of the scores; negative where it is better.

    The absolute difference, or for errors with a unit (mae, rmse) the relative increase: 0 for 0 against 0, infinite
    for anything against 0.
    """
    first, second = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        worse = first - second if metric.higher_is_better else second - first
        if not metric.relative:
            return worse
        return np.where(worse == 0, 0.0, worse / first)


def choose_metric(
    name: str | None,
    first_output: Array,
    *,
    has_labels: bool,
    labels: Array | None = None,
    more_outputs: Sequence[Array] = (),
) -> Metric:
    """The metric of that name for a model's primary output, or the one that fits when ``name`` is ``None``.

    Args:
        name: One of ``METRICS``, ``agreement[kind]``, ``module:function``, or ``None``.
        first_output: Primary output of the reference on some sample.
        has_labels: Whether the data carry labels.
        labels: The labels of that sample.
        more_outputs: Primary outputs on further samples: whether a column holds probabilities shows in many values.

    Raises:
        UsageError: There is no metric of that name, it needs labels (cosine takes the reference's output instead), or
            it cannot apply to such an output.
        DataError: The labels do not fit.
    """
    if name is None:
        name = "agreement" if not has_labels or labels is None else "rmse" if is_floating(labels) else "top1"
    if ":" in name:
        function = load_function(name, "--metric", UsageError)
        return WholeMetric(name, cast("Callable[[Array, Array | None], float]", function))
    if name == "cosine" and (not has_labels or labels is None):
        name = "agreement[cosine]"
    if name == "agreement" or (name.startswith("agreement[") and name[10:-1] in AGREEMENTS):
        return _agreement(name[10:-1], [first_output, *more_outputs])
    if name not in METRICS and name != "accuracy":
        raise UsageError(f"unknown metric {name!r}", where="--metric", fix=nearest(name, [*METRICS, "module:function"]))
    if not has_labels or labels is None:
        raise UsageError(
            f"the metric {name!r} needs labels and the data have none",
            where="--metric",
            fix="add labels to the data (--labels KEY), or leave --metric out to measure agreement with the reference",
        )
    metric = _labelled(name, [first_output, *more_outputs])
    metric.rows(first_output, labels)
    return metric


def _labelled(name: str, outputs: Sequence[Array]) -> RowMetric:
    output = outputs[0]
    match name:
        case "top1" | "accuracy":
            scores = _class_scores(outputs)
            if _is_scores(output):
                rows = partial(classes.topk_rows, k=1)
                return RowMetric("top1", rows, values.ratio_score, proportion=True, class_scores=scores)
            rows = partial(classes.accuracy_rows, threshold=_threshold(outputs))
            return RowMetric("accuracy", rows, values.ratio_score, proportion=True, class_scores=scores)
        case "top5":
            if not _is_scores(output) or _class_count(output) <= 5:
                raise UsageError(
                    f"top5 needs scores of more than 5 classes, the output is {output.dtype.name}{list(output.shape)}",
                    where="--metric top5",
                    fix="use --metric top1, or choose the output with the class scores with --output-name",
                )
            return RowMetric("top5", partial(classes.topk_rows, k=5), values.ratio_score, proportion=True)
        case "f1":
            return RowMetric("f1", partial(classes.confusion_rows, threshold=_threshold(outputs)), classes.f1_score)
        case "recall":
            rows = partial(classes.confusion_rows, threshold=_threshold(outputs))
            return RowMetric("recall", rows, classes.recall_score)
        case "mae":
            return _error_metric("mae", 1, values.ratio_score)
        case "rmse":
            return _error_metric("rmse", 2, values.root_ratio_score)
        case "cosine":
            return RowMetric("cosine", values.cosine_rows, values.ratio_score, counts=False)
        case _:
            return RowMetric("cer", cer_rows, values.ratio_score, higher_is_better=False)


def _error_metric(name: str, power: int, score: Callable[[Rows], Rows]) -> RowMetric:
    rows = partial(values.error_rows, power=power)
    return RowMetric(name, rows, score, higher_is_better=False, relative=True, counts=False)


def _agreement(kind: str, outputs: Sequence[Array]) -> RowMetric:
    output = outputs[0]
    fitting = _agreement_kind(outputs)
    kind = kind or fitting
    name = f"agreement[{kind}]"
    build = partial(RowMetric, name, score=values.ratio_score, against_reference=True)
    match kind:
        case "top1" if output.ndim == 2 and is_floating(output):
            return build(rows=classes.same_class_rows, proportion=True, class_scores=_class_scores(outputs))
        case "threshold" if is_floating(output) and _is_column(output):
            rows = partial(classes.same_side_rows, threshold=_threshold(outputs))
            return build(rows=rows, proportion=True, class_scores=_class_scores(outputs))
        case "equal":
            return build(rows=classes.equal_rows, proportion=True)
        case "cosine" if is_number(output):
            return build(rows=values.cosine_rows, counts=False)
        case _:
            raise UsageError(
                f"{name} does not apply to an output {output.dtype.name}{list(output.shape)}",
                where="--metric",
                fix=f"leave --metric out: agreement[{fitting}] fits this output",
            )


def _agreement_kind(outputs: Sequence[Array]) -> str:
    output = outputs[0]
    if not is_floating(output):
        return "equal"
    if _is_column(output):
        return "threshold" if _are_probabilities(outputs) else "cosine"
    if output.ndim == 2:
        return "cosine" if _are_embeddings(outputs) else "top1"
    return "cosine"


def _are_probabilities(outputs: Sequence[Array]) -> bool:
    return any(o.size for o in outputs) and all(bool(((o >= 0) & (o <= 1)).all()) for o in outputs)


def _are_embeddings(outputs: Sequence[Array]) -> bool:
    """Whether all rows have length 1 and some number is negative (probabilities never are)."""
    numbers = [o.astype(np.float64) for o in outputs]
    with np.errstate(invalid="ignore", over="ignore"):
        unit = all(bool((np.abs(np.sqrt((o**2).sum(axis=-1)) - 1) < 1e-3).all()) for o in numbers)
    return unit and any(bool((o < 0).any()) for o in numbers)


def _class_scores(outputs: Sequence[Array]) -> Callable[[Array], Rows] | None:
    """How outputs become class scores; ``None``: they are no scores of one class an item."""
    if not all(is_floating(o) for o in outputs):
        return None
    if all(_is_column(o) for o in outputs):
        return flips.log_odds if _are_probabilities(outputs) else flips.plain_scores
    if not all(o.ndim == 2 for o in outputs):
        return None
    if not _are_probabilities(outputs):
        return flips.plain_scores
    sums = np.concatenate([o.astype(np.float64).sum(axis=1) for o in outputs])
    return flips.log_probabilities if np.allclose(sums, 1, atol=1e-3) else flips.plain_scores


def _is_column(output: Array) -> bool:
    return output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)


def _is_scores(output: Array) -> bool:
    return is_floating(output) and output.ndim >= 2 and not _is_column(output)


def _class_count(output: Array) -> int:
    return max(output.shape[1:])


def _threshold(outputs: Sequence[Array]) -> float:
    """Half for probabilities, zero for logits."""
    return 0.5 if not is_floating(outputs[0]) or _are_probabilities(outputs) else 0.0
