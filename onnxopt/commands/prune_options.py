"""The options of ``prune``, checked; and what was done, as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxopt.core.query import Model, label, nodes
from onnxopt.errors import ModelError, UsageError
from onnxopt.pruning.goals import Goal
from onnxopt.pruning.importance import Importance
from onnxopt.quantization.existing import is_integer
from onnxopt.quantization.nonfinite import nonfinite_constants
from onnxopt.quantization.patterns import excluded

__all__ = ["Prune", "chosen_goal", "chosen_importance", "kept_labels", "refuse_unfit"]


@dataclass(frozen=True)
class Prune:
    """What was done, as a recipe.

    Attributes:
        goal: What was to be reached.
        importance: How channels were ranked.
        block: Channels that go together.
        kept: (name of a group, units it keeps).
        dropped: Nodes whose residual branches are gone.
        ranks: (node, channels between the two Convs that it became).
    """

    name: ClassVar[str] = "prune"

    goal: str
    importance: Importance
    block: int
    kept: tuple[tuple[str, int], ...]
    dropped: tuple[str, ...] = ()
    ranks: tuple[tuple[str, int], ...] = ()


def chosen_goal(
    shares: Mapping[str, float | None], others: Mapping[str, object], max_drop: float | None
) -> Goal | None:
    """The cost to lower; ``None``: another of the goals was given, or ``max_drop`` alone."""
    given = {kind: ratio for kind, ratio in shares.items() if ratio is not None}
    ways = [*given, *(name for name, value in others.items() if value is not None)]
    if len(ways) > 1 or (not ways and max_drop is None):
        raise UsageError(
            "one goal is needed" if not ways else "there is more than one goal",
            where=" ".join(f"--{name}" for name in ways) or "onnxopt prune",
            fix="give one of --latency, --macs, --params with the share to keep, --sparsity, --nm, --drop-blocks, or "
            "--max-drop alone for the fastest model within that drop",
        )
    for kind, ratio in given.items():
        if not 0 < ratio < 1:
            raise UsageError(
                f"{ratio:g} is no share to keep", where=f"--{kind}", fix="give a number between 0 and 1, such as 0.7"
            )
        return Goal(kind, ratio)  # pyright: ignore[reportArgumentType]
    return None


def chosen_importance(
    importance: Importance | None, others: Mapping[str, object], *, factor: bool = True
) -> Importance:
    """How units are ranked.

    Raises:
        UsageError: One was given, or Convs are to stay one, and no units are cut.
    """
    given = {f"--importance {importance}": importance is not None, "--no-factor": not factor}
    for name, value in others.items():
        for option, is_given in given.items():
            if value is not None and is_given:
                raise UsageError(
                    f"--{name} cuts no channels and makes no two Convs of one",
                    where=option,
                    fix="leave it out, or give --latency, --macs or --params",
                )
    return importance or "obs"


def refuse_unfit(model: Model, path: Path) -> None:
    """Raises where nodes multiply with integer weights, or where constants are no numbers.

    Raises:
        ModelError: Some do, or are.
    """
    integer = [node for node in nodes(model) if is_integer(node)]
    if integer:
        raise ModelError(
            f"the model is quantized: {len(integer)} nodes multiply with integer weights, {label(integer[0])} first",
            where=str(path),
            fix="prune the float model that it was made from, then quantize the result on the same data",
        )
    wrong = nonfinite_constants(model)
    if wrong:
        raise ModelError(
            f"the model has {wrong[0].node}, of which {wrong[0].reason}: nothing can be fitted to its outputs",
            where=str(path),
            fix="export the model again from weights that are numbers",
        )


def kept_labels(model: Model, patterns: Sequence[str]) -> frozenset[str]:
    """The labels of the nodes that match a pattern of ``--keep``.

    Raises:
        UsageError: A pattern matches none.
    """
    return frozenset(label(node) for node in excluded(nodes(model), patterns, option="--keep"))
