"""Work that several members have in common, done once: equal weights are stored once, equal nodes computed once.

Two nodes are equal when operator, attributes, weights and inputs are, so a trunk that members share collapses node by
node from the inputs on. That is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxopt.core.io import total_bytes
from onnxopt.core.query import Model, nodes
from onnxopt.passes.base import Context
from onnxopt.passes.cleanup.common import CommonSubexpressions
from onnxopt.passes.cleanup.duplicates import DeduplicateInitializers
from onnxopt.passes.cleanup.unused import RemoveUnused

__all__ = ["Shared", "share_work"]


@dataclass(frozen=True)
class Shared:
    """What members had in common.

    Attributes:
        nodes: Nodes that are computed once instead of several times.
        weights: Weights that are stored once.
        bytes: Their size.
    """

    nodes: int
    weights: int
    bytes: int


def share_work(model: Model) -> tuple[Model, Shared]:
    """The model, which is changed, without repeated weights and nodes."""
    ctx = Context(Path())
    before, count = total_bytes(model), sum(1 for _ in nodes(model))
    first = DeduplicateInitializers().run(model, ctx)
    second = CommonSubexpressions().run(first.model, ctx)
    model = RemoveUnused().run(second.model, ctx).model
    return model, Shared(count - sum(1 for _ in nodes(model)), first.changes, before - total_bytes(model))
