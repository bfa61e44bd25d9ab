"""The options of ``prune``, checked; and what was done, as a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxopt.commands.common import Source, open_data
from onnxopt.core.query import Model, label, nodes
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import ModelError, UsageError, nearest
from onnxopt.pruning.goals import Goal
from onnxopt.pruning.importance import Importance
from onnxopt.quantization.existing import is_integer
from onnxopt.quantization.patterns import matching
from onnxopt.run.target import Target

__all__ = ["Prune", "chosen_goal", "kept_labels", "refuse_quantized", "split_for_pruning"]

HELD_BACK, LEAST_HELD_BACK, MOST_HELD_BACK = 0.125, 48, 0.25
"""Of the data, to judge by, where no other data are given; at least so many, at most that share."""


@dataclass(frozen=True)
class Prune:
    """What was done, as a recipe.

    Attributes:
        goal: What was to be reached.
        importance: How channels were ranked.
        block: Channels that go together.
        kept: (name of a group, units it keeps).
        dropped: Nodes whose residual branches are gone.
    """

    name: ClassVar[str] = "prune"

    goal: str
    importance: Importance
    block: int
    kept: tuple[tuple[str, int], ...]
    dropped: tuple[str, ...] = ()


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


def refuse_quantized(model: Model, path: Path) -> None:
    """Raises where nodes multiply with integer weights.

    Raises:
        ModelError: Some do.
    """
    integer = [node for node in nodes(model) if is_integer(node)]
    if integer:
        raise ModelError(
            f"the model is quantized: {len(integer)} nodes multiply with integer weights, {label(integer[0])} first",
            where=str(path),
            fix="prune the float model that it was made from, then quantize the result on the same data",
        )


def kept_labels(model: Model, patterns: Sequence[str]) -> frozenset[str]:
    """The labels of the nodes that match a pattern of ``--keep``.

    Raises:
        UsageError: A pattern matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        met = matching(nodes(model), pattern)
        if not met:
            raise UsageError(
                f"the pattern {pattern!r} matches no node",
                where="--keep",
                fix=nearest(pattern, [label(n) for n in nodes(model)] + [n.op_type for n in nodes(model)]),
            )
        found.update(label(node) for node in met)
    return frozenset(found)


def split_for_pruning(
    source: Source, eval_data: str | None, path: Path, model: Model, target: Target
) -> tuple[Dataset, Dataset]:
    """Samples to fit to, and samples to judge by: ``eval_data``, or an eighth to a quarter of ``source``.

    Raises:
        DataError: The data cannot be used.
    """
    given = open_data(source, path, model, target)
    if eval_data is not None:
        judge = Source(eval_data, source.labels, source.preprocess, None, source.seed)
        return given, open_data(judge, path, model, target)
    count = len(given)
    held_back = min(max(int(count * HELD_BACK), LEAST_HELD_BACK), int(count * MOST_HELD_BACK))
    return split(given, calibration=count - held_back, seed=source.seed, most=1.0 if held_back else 0.5)
