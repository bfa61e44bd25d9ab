"""The ways to combine models, as values: their fields are their options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from onnxopt.errors import UsageError
from onnxopt.merging.forms import On

__all__ = ["Average", "Cascade", "Serial", "Soup", "Stack", "Strategy", "Vote", "Weighted"]


@dataclass(frozen=True)
class Average:
    """The mean of all outputs.

    Attributes:
        on: Of probabilities, of logits; ``"auto"``: of probabilities where one member gives them or labels say that
            the task is one of classes, else of the outputs as they are.
    """

    name: ClassVar[str] = "average"

    on: On = "auto"


@dataclass(frozen=True)
class Weighted:
    """A weighted mean.

    Attributes:
        weights: One a member, from 0 up; ``"accuracy"``: ``acc_i / sum acc``; ``"fitted"``: shrunk non-negative least
            squares on labelled data.
        on: As for ``Average``.
    """

    name: ClassVar[str] = "weighted"

    weights: tuple[float, ...] | Literal["fitted", "accuracy"] = "fitted"
    on: On = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.weights, str):
            return
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or not sum(self.weights) > 0:
            raise UsageError(
                f"weights {', '.join(f'{w:g}' for w in self.weights)}: each must be finite and from 0 up, one above 0",
                where="--weights",
                fix="for instance --weights 0.5,0.3,0.2",
            )


@dataclass(frozen=True)
class Vote:
    """Each member has one vote.

    Attributes:
        kind: ``"hard"``: the share of votes for each class; ``"soft"``: the mean of the probabilities.
    """

    name: ClassVar[str] = "vote"

    kind: Literal["hard", "soft"] = "hard"


@dataclass(frozen=True)
class Stack:
    """A meta-model on the outputs of all members side by side.

    Attributes:
        meta: ``"logistic"``: fitted here and written into the graph; a path of an ONNX model whose input has as many
            features as all outputs together; ``module:function`` that makes a scikit-learn estimator, or an estimator.
    """

    name: ClassVar[str] = "stack"

    meta: str | Path | object = "logistic"


@dataclass(frozen=True)
class Serial:
    """The output of each model feeds the next one."""

    name: ClassVar[str] = "serial"


@dataclass(frozen=True)
class Cascade:
    """Members in order of cost, and the rest only where the first are not sure.

    Attributes:
        max_drop: How much less accurate than all members together the cascade may be, at ``confidence``.
        max_cost: Instead: the share of the cost of all members that it may take.
        threshold: Instead: the confidence from which an answer is final.
        confidence: Of the bound by which the threshold is chosen.
    """

    name: ClassVar[str] = "cascade"

    max_drop: float = 0.005
    max_cost: float | None = None
    threshold: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, value in (("--max-cost", self.max_cost), ("--threshold", self.threshold)):
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{value:g} is no share", where=name, fix="give a number above 0, at most 1")
        if self.max_cost is not None and self.threshold is not None:
            raise UsageError(
                "a cost and a threshold cannot both be kept", where="--max-cost, --threshold", fix="give one of them"
            )


@dataclass(frozen=True)
class Soup:
    """One model whose weights are the mean of those of fine-tunes of one parent, chosen greedily."""

    name: ClassVar[str] = "soup"


Strategy: TypeAlias = Average | Weighted | Vote | Stack | Serial | Cascade | Soup
