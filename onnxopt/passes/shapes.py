"""Shapes that a pass may rely on: those that follow from the model's inputs and weights.

What a file says about its intermediate values is not used: it goes stale when somebody makes the batch axis of the
inputs dynamic, and ONNX Runtime does not enforce it.
"""

from __future__ import annotations

from typing import TypeAlias

import onnx_ir as ir

from onnxopt.core.query import Model, graphs
from onnxopt.core.shapes import infer_shapes
from onnxopt.passes.constants import tensor_of

__all__ = ["DerivedShapes", "Dims"]

Dims: TypeAlias = "tuple[int | None, ...]"
"""One size a dimension, ``None`` where it is not fixed."""


class DerivedShapes:
    """Shapes of the values of a model as it is when the first one is asked for; they are inferred once, on a copy."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shapes: dict[ir.Value, Dims] | None = None

    def of(self, value: ir.Value | None) -> Dims | None:
        """The shape of ``value``; ``None``: rank unknown."""
        if value is None:
            return None
        tensor = tensor_of(value)
        if tensor is not None:
            return tuple(int(size) for size in tensor.shape.numpy())
        if self._shapes is None:
            self._shapes = _derive(self._model)
        return self._shapes.get(value)


def _derive(model: Model) -> dict[ir.Value, Dims]:
    copy = model.clone()
    for graph in graphs(copy):
        declared = [output for node in graph for output in node.outputs]
        if graph is not copy.graph:
            declared.extend(graph.inputs)
        for value in declared:
            value.shape = None
    infer_shapes(copy)
    found: dict[ir.Value, Dims] = {}
    for graph, twin in zip(graphs(model), graphs(copy), strict=True):
        pairs = list(zip(graph.inputs, twin.inputs, strict=True))
        for node, node_twin in zip(graph, twin, strict=True):
            pairs += zip(node.outputs, node_twin.outputs, strict=True)
        for value, value_twin in pairs:
            if value_twin.shape is not None:
                found[value] = tuple(d if isinstance(d, int) else None for d in value_twin.shape)
    return found
