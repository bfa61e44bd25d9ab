"""Keeps one of several initializers with the same content.

Own code in place of ``DeduplicateInitializersPass`` of ``onnx_ir``, which takes the strings ``"a"`` and ``"a\\0"`` for
equal, keeps a file descriptor open for each external tensor, and misses a branch's copy of an outer weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.edit import nested_graphs
from onnxopt.core.query import Model, graphs
from onnxopt.core.tensors import content_key
from onnxopt.passes.base import Context, PassResult

__all__ = ["DeduplicateInitializers"]


@dataclass(frozen=True)
class DeduplicateInitializers:
    """Initializers with equal type, shape and bytes, in one graph or in a graph around it."""

    name: ClassVar[str] = "deduplicate-initializers"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Removes the later ones; each counts as one change."""
        del ctx
        looks = Counter(
            _look(value) for graph in graphs(model) for value in graph.initializers.values() if value.const_value
        )
        roots = [model.graph, *(function.graph for function in model.functions.values())]
        return PassResult(model, sum(_deduplicate(root, {}, looks) for root in roots))


def _look(value: ir.Value) -> object:
    tensor = value.const_value
    return None if tensor is None else (tensor.dtype, tuple(tensor.shape))


def _deduplicate(graph: ir.Graph, outer: Mapping[object, ir.Value], looks: Mapping[object, int]) -> int:
    known, count = dict(outer), 0
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or looks[_look(value)] < 2:
            continue
        first = known.setdefault(content_key(tensor), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[name]
            count += 1
    for node in graph:
        for attribute in node.attributes.values():
            count += sum(_deduplicate(inner, known, looks) for inner in nested_graphs(attribute))
    return count
