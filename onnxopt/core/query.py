"""Read-only questions about a graph: its signature, its nodes at all depths, its constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

__all__ = [
    "Model",
    "TensorSpec",
    "constant",
    "graphs",
    "input_specs",
    "label",
    "nodes",
    "opset",
    "output_specs",
]

Model = ir.Model


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a graph input or output.

    Attributes:
        name: Value name.
        dtype: numpy dtype, ``None`` for what numpy has no array for (sequence, optional, map).
        shape: One entry a dimension: a size, a symbol, or ``None``; ``None`` as a whole: rank unknown.
    """

    name: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dtype = "non-tensor" if self.dtype is None else self.dtype.name
        if self.shape is None:
            return f"{self.name}: {dtype}, rank unknown"
        return f"{self.name}: {dtype} ({', '.join('?' if d is None else str(d) for d in self.shape)})"


def input_specs(model: Model) -> tuple[TensorSpec, ...]:
    """The inputs a caller must feed (before IR version 4 initializers are listed as inputs too)."""
    return tuple(_spec(v) for v in model.graph.inputs if v.name not in model.graph.initializers)


def output_specs(model: Model) -> tuple[TensorSpec, ...]:
    """The outputs in the order of the graph."""
    return tuple(_spec(v) for v in model.graph.outputs)


def graphs(model: Model) -> Iterator[ir.Graph]:
    """The main graph, the bodies of control flow, and the bodies of local functions with theirs."""
    yield model.graph
    yield from model.graph.subgraphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.graph.subgraphs()


def nodes(model: Model) -> Iterator[ir.Node]:
    """All nodes of all graphs, in graph order."""
    for graph in graphs(model):
        yield from graph


def opset(model: Model) -> int:
    """The version of the default operator set that the main graph imports (0: none)."""
    imports = model.graph.opset_imports
    return max(imports.get("", 0), imports.get("ai.onnx", 0))


def label(node: ir.Node) -> str:
    """A name for messages: the node's own, or its type and first output."""
    if node.name:
        return node.name
    output = node.outputs[0].name if node.outputs else "?"
    return f"{node.op_type}->{output}"


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind ``value`` when it cannot change at run time: an initializer that is no input, or a Constant.

    The weights are not read: use ``core.tensors.borrow`` for that.
    """
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    producer = value.producer()
    if producer is not None and producer.op_type == "Constant" and producer.domain in ("", "ai.onnx"):
        attribute = producer.attributes.get("value")
        if attribute is not None and not attribute.is_ref():
            return attribute.as_tensor()
    return None


def _spec(value: ir.Value) -> TensorSpec:
    dtype = None
    if isinstance(value.type, ir.TensorType):
        dtype = np.dtype(np.str_) if value.type.dtype == ir.DataType.STRING else np.dtype(value.type.dtype.numpy())
    shape = None
    if value.shape is not None:
        shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return TensorSpec(value.name or "", dtype, shape)
