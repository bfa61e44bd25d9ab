"""``prune --importance fisher``: units ranked by what the loss on labelled samples says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxopt.core.plugins import optional
from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import UsageError
from onnxopt.passes.base import Context
from onnxopt.pruning.importance import Importance
from onnxopt.pruning.structure import Group, Structure

if TYPE_CHECKING:
    from onnxopt.recover.fisher import Part

__all__ = ["fisher_scores"]


def fisher_scores(
    importance: Importance, data: Dataset, output: str, ctx: Context
) -> Callable[[Model, Structure], Sequence[Array]] | None:
    """What ``open_pruner`` ranks by; ``None``: another importance is wanted.

    Args:
        importance: Which.
        data: Samples that pruning is fitted to.
        output: Name of the output that the labels belong to.
        ctx: Target, seed, progress.

    Raises:
        UsageError: The data have no labels.
        MissingExtraError: torch is not installed.
    """
    if importance != "fisher":
        return None
    optional("torch", "torch")
    if not data.has_labels:
        raise UsageError(
            "Fisher information needs labels, and the data have none",
            where="--importance fisher",
            fix="add labels to the data, or take obs, which needs none",
        )
    from onnxopt.recover.fisher import fisher

    def scores(model: Model, structure: Structure) -> Sequence[Array]:
        groups = [(len(group.units), _parts(group, structure)) for group in structure.groups]
        return fisher(model, groups, data, output, ctx)

    return scores


def _parts(group: Group, structure: Structure) -> list[Part]:
    """Weights and biases of the nodes that make the units."""
    from onnxopt.recover.fisher import Part

    place = {int(unit): index for index, unit in enumerate(group.units)}
    wanted = {(maker.weight, maker.out_axis) for maker in group.makers}
    wanted |= {(maker.bias, 0) for maker in group.makers if maker.bias is not None}
    found: list[Part] = []
    for slot in group.slots:
        if (slot.value, slot.axis) in wanted and slot.value.name is not None:
            units = np.array([place.get(int(i), -1) for i in structure.positions(slot)])
            found.append(Part(slot.value.name, slot.axis, units))
    return found
