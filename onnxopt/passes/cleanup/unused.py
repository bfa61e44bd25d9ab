"""Removes nodes, initializers and functions that no output depends on.

Own code in place of ``RemoveUnusedNodesPass`` of ``onnx_ir``, which keeps unused initializers of nested graphs and what
only a removed control-flow node read, and trims optional inputs and outputs without saying that it changed the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass

from onnxopt.core.edit import clear_unused, nested_graphs, remove_node
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult

__all__ = ["RemoveUnused"]


@dataclass(frozen=True)
class RemoveUnused:
    """Dead code elimination in the main graph, nested graphs and functions; the model's signature stays."""

    name: ClassVar[str] = "remove-unused"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Removes what is unused; each node, initializer and function counts as one change."""
        del ctx
        before = len(model.functions)
        RemoveUnusedFunctionsPass()(model)
        count = before - len(model.functions) + _clean(model.graph)
        for function in model.functions.values():
            count += _clean(function.graph)
        notes = tuple(
            Note(value.name or "", "kept", "is an unused graph input with a default; inputs are the model's signature")
            for value in model.graph.initializers.values()
            if value.is_graph_input() and not value.uses() and not value.is_graph_output()
        )
        return PassResult(model, count, notes)


def _clean(graph: ir.Graph) -> int:
    count = 0
    for node in reversed(graph):
        if node.graph is None:
            continue
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            count += remove_node(node)
            continue
        for attribute in node.attributes.values():
            count += sum(_clean(inner) for inner in nested_graphs(attribute))
    return count + clear_unused(list(graph.initializers.values()))
