"""Nodes that compute shapes from shapes: providers of a GPU leave these few integers on the CPU on purpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import onnx

__all__ = ["shape_nodes"]

SOURCES = frozenset({"Shape", "Size"})
STEPS = frozenset(
    {"Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Range", "Identity", "Add", "Sub", "Mul", "Div"}
)


def shape_nodes(path: Path) -> frozenset[tuple[str, str]]:
    """Operator and name of the nodes, at all depths, that read nothing but shapes and constants.

    A pair that several nodes share counts only when all of them are of this kind.
    """
    model = onnx.ModelProto.FromString(path.read_bytes())
    verdicts: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for graph in _graphs(model.graph):
        constants = {tensor.name for tensor in graph.initializer}
        shapes: set[str] = set()
        for node in graph.node:
            if node.op_type == "Constant":
                constants.update(node.output)
                continue
            given = [name for name in node.input if name and name not in constants]
            is_shape = node.op_type in SOURCES or (
                node.op_type in STEPS and bool(given) and all(name in shapes for name in given)
            )
            if is_shape:
                shapes.update(node.output)
            verdicts[node.op_type, node.name].append(is_shape)
    return frozenset(key for key, found in verdicts.items() if all(found))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for nested in attribute.graphs:
                yield from _graphs(nested)
