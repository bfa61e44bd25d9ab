"""What each output of a student is taught, by what the answers of the teacher look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.errors import UsageError
from onnxopt.evaluate.metrics import choose_metric
from onnxopt.evaluate.outputs import is_floating
from onnxopt.recover.options import Loss

__all__ = ["Head", "Kind", "choose_head", "combine", "pseudo_labels", "pseudo_metric"]

Kind: TypeAlias = Literal["kl", "bce", "mse", "cosine"]
TINY = 1e-12


@dataclass(frozen=True)
class Head:
    """An output and what it is taught.

    Attributes:
        name: The output of the student.
        kind: ``"kl"`` between distributions over classes, ``"bce"`` of yes and no, ``"mse"`` over the variance of the
            answers, ``"cosine"`` distance.
        axis: Of the classes, or of the vectors.
        probabilities: Whether the output holds probabilities instead of logits.
        scale: Mean squared deviation of the answers from their mean.
    """

    name: str
    kind: Kind
    axis: int = -1
    probabilities: bool = False
    scale: float = 1.0

    def __str__(self) -> str:
        what = {"kl": "KL", "bce": "cross entropy of yes and no", "mse": "squared error", "cosine": "cosine distance"}
        return f"{what[self.kind]}{' of probabilities' if self.probabilities and self.kind == 'kl' else ''}"


def choose_head(name: str, answers: Sequence[Array], loss: Loss) -> Head | None:
    """What fits an output with such answers; ``None`` where it cannot be trained (integers, strings).

    Args:
        name: The output.
        answers: What teachers answer on some samples.
        loss: What the user wants; ``"auto"``: what fits.

    Raises:
        UsageError: The loss does not apply.
    """
    first = answers[0]
    if not is_floating(first) or first.dtype.kind == "V" or first.ndim == 0:
        return None
    flat = np.concatenate([a.astype(np.float64).reshape(-1) for a in answers])
    finite = flat[np.isfinite(flat)]
    scale = float(np.var(finite)) if finite.size else 0.0
    scale = scale if scale > TINY else max(float(np.mean(finite**2)) if finite.size else 0.0, TINY)
    axis = 1 if first.ndim >= 4 else -1
    sums_to_one = _are_distributions(answers, axis)
    column = first.ndim == 1 or (first.ndim == 2 and first.shape[1] == 1)
    match loss:
        case "kl":
            if column:
                raise UsageError(
                    f"output {name!r} has one column, and KL compares distributions over classes",
                    where="--loss kl",
                    fix="leave --loss out, or use --loss mse",
                )
            return Head(name, "kl", axis, sums_to_one, scale)
        case "mse":
            return Head(name, "mse", scale=scale)
        case "cosine":
            return Head(name, "cosine", scale=scale)
        case "auto":
            pass
    fitting = choose_metric(None, first, has_labels=False, more_outputs=answers[1:]).name
    if column:
        return Head(name, "bce" if fitting.endswith("[threshold]") else "mse", scale=scale)
    if sums_to_one:
        return Head(name, "kl", axis, True, scale)
    if first.ndim == 2:
        return Head(name, "kl" if fitting.endswith("[top1]") else "cosine", -1, False, scale)
    return Head(name, "mse", scale=scale)


def combine(head: Head, answers: Sequence[Array], temperature: float) -> Array:
    """The answers of several teachers as one: the mean, of distributions after the softmax.

    For logits the result is logits again: their softmax at the temperature is the mean of the teachers' softmaxes.
    """
    if len(answers) == 1:
        return answers[0]
    if head.kind != "kl" or head.probabilities:
        return np.mean(answers, axis=0, dtype=np.float64).astype(answers[0].dtype)
    scaled = [a.astype(np.float64) / temperature for a in answers]
    shares = [np.exp(a - a.max(axis=head.axis, keepdims=True)) for a in scaled]
    mean = np.mean([s / s.sum(axis=head.axis, keepdims=True) for s in shares], axis=0)
    return (np.log(np.maximum(mean, TINY)) * temperature).astype(answers[0].dtype)


def pseudo_labels(head: Head, answers: Array) -> Array:
    """What the teacher says, in the form of labels: classes, yes or no, numbers."""
    match head.kind:
        case "kl":
            return answers.argmax(axis=head.axis)
        case "bce":
            return (answers > 0.5).astype(np.int64)
        case "mse" | "cosine":
            return answers


def pseudo_metric(head: Head) -> str:
    """The metric by which such labels are judged."""
    return {"kl": "top1", "bce": "accuracy", "mse": "rmse", "cosine": "cosine"}[head.kind]


def _are_distributions(answers: Sequence[Array], axis: int) -> bool:
    if answers[0].ndim < 2:
        return False
    wide = [a.astype(np.float64) for a in answers]
    with np.errstate(invalid="ignore"):
        return all(bool((a >= 0).all()) and bool((np.abs(a.sum(axis=axis) - 1) < 1e-3).all()) for a in wide)
