"""Shapes of intermediate values, symbolic as the model states them or static for given inputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxopt.core.proto import map_values
from onnxopt.core.query import Model, graphs, nodes

__all__ = ["infer_shapes", "rank", "static_shapes"]

# A model that defeats shape inference is no news for the user: what needs a shape then says that it has none.
logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.ERROR + 1)


def infer_shapes(model: Model) -> None:
    """Fills in the types and shapes that ONNX shape inference finds, in place; others stay unknown."""
    maps = map_values(model)
    if not maps:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
        return
    # The pass fails on inferred map types, so it works on a copy without the nodes that make them.
    copy = model.clone()
    kept = [value for value in copy.graph.outputs if value.name not in maps]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(kept)
    copy.graph.remove([n for n in copy.graph if any(v.name in maps for v in n.outputs) and not _is_read(n)], safe=True)
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    found = {v.name: v for node in copy.graph for v in node.outputs}
    for value in (v for node in model.graph for v in node.outputs):
        if value.name in found:
            value.type, value.shape = found[value.name].type, found[value.name].shape


def _is_read(node: ir.Node) -> bool:
    return any(value.uses() for value in node.outputs)


def static_shapes(model: Model, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shape of every value of the main graph and its nested graphs for inputs of the given shapes.

    Args:
        model: The model; it is not changed.
        inputs: Input name -> shape.

    Returns:
        Value name -> shape; values whose shape depends on data, or on an op that inference does not know, are missing.
    """
    copy = model.clone()
    for node in nodes(copy):
        for value in node.outputs:
            value.shape = None  # what a file says of these goes stale, and ONNX Runtime does not enforce it
    for value in copy.graph.inputs:
        if value.name is not None and value.name in inputs:
            value.shape = ir.Shape(inputs[value.name])
    infer_shapes(copy)
    found: dict[str, tuple[int, ...]] = {}
    for graph in graphs(copy):
        for value in [*graph.inputs, *(o for node in graph for o in node.outputs)]:
            if value.name and value.shape is not None and value.shape.is_static():
                found[value.name] = tuple(value.shape.numpy())
    return found


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions of ``value``, if known."""
    if value is None:
        return None
    if value.const_value is not None:
        return len(value.const_value.shape)
    return None if value.shape is None else len(value.shape)
