"""What a model costs on paper: parameters, bytes, multiply-accumulates (MACs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from onnxopt.core.external import initializers
from onnxopt.core.query import Model, graphs, label, nodes
from onnxopt.core.tensors import tensor_bytes

__all__ = ["Cost", "cost"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """Static cost of a model.

    Attributes:
        params: Elements of all floating-point and integer weights (initializers and Constant nodes).
        weight_bytes: Their size as stored.
        macs: Node label -> multiply-accumulates of one call, for nodes whose shapes are known.
        unknown: Labels of compute nodes whose shapes are not known.
    """

    params: int
    weight_bytes: int
    macs: Mapping[str, int]
    unknown: tuple[str, ...]

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of all counted nodes (the body of a loop counts once)."""
        return sum(self.macs.values())


def cost(model: Model, shapes: Mapping[str, Shape]) -> Cost:
    """The cost of one call in which the values have the given shapes (as ``static_shapes`` infers them)."""
    tensors = {id(t): t for t in [*(t for _, t in initializers(model)), *_constants(model)]}.values()
    macs: dict[str, int] = {}
    unknown: list[str] = []
    for graph in graphs(model):
        for node in graph:
            count = COUNTERS.get(node.op_type)
            if count is None:
                continue
            found = _shapes_of(node, shapes)
            if found is None:
                unknown.append(label(node))
            else:
                macs[label(node)] = macs.get(label(node), 0) + count(node, found)  # names repeat across graphs
    return Cost(sum(t.size for t in tensors), sum(tensor_bytes(t) for t in tensors), macs, tuple(unknown))


def _constants(model: Model) -> list[ir.TensorProtocol]:
    found: list[ir.TensorProtocol] = []
    for node in nodes(model):
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if attribute is not None and not attribute.is_ref():
            found.append(attribute.as_tensor())
    return found


def _shapes_of(node: ir.Node, shapes: Mapping[str, Shape]) -> list[Shape] | None:
    """Shapes of the inputs (missing optional ones: empty) and of the first output; ``None`` when one is not known."""
    found: list[Shape] = []
    for value in (*node.inputs, node.outputs[0]):
        if value is None:
            found.append(())
        elif value.const_value is not None:
            found.append(tuple(value.const_value.shape.numpy()))
        elif value.name is not None and value.name in shapes:
            found.append(shapes[value.name])
        else:
            return None
    return found


def _conv(node: ir.Node, s: list[Shape]) -> int:
    """Weight (out, in/group, *k); output (n, out, *spatial)."""
    del node
    weight, output = s[1], s[-1]
    return output[0] * prod(output[2:]) * prod(weight)


def _conv_transpose(node: ir.Node, s: list[Shape]) -> int:
    """Weight (in, out/group, *k); input (n, in, *spatial)."""
    del node
    data, weight = s[0], s[1]
    return data[0] * prod(data[2:]) * prod(weight)


def _matmul(node: ir.Node, s: list[Shape]) -> int:
    """Every output element is a dot product over the last axis of the first input."""
    del node
    return prod(s[-1]) * s[0][-1]


def _gemm(node: ir.Node, s: list[Shape]) -> int:
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int() != 0
    return prod(s[-1]) * s[0][0 if transposed else 1]


def _recurrent(node: ir.Node, s: list[Shape]) -> int:
    """X (seq, batch, in); W (dirs, gates*hidden, in); R (dirs, gates*hidden, hidden)."""
    del node
    steps, batch = s[0][0], s[0][1]
    return steps * batch * (s[1][0] * s[1][1] * s[1][2] + s[2][0] * s[2][1] * s[2][2])


COUNTERS: Mapping[str, Callable[[ir.Node, list[Shape]], int]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": lambda node, s: _conv(node, [s[0], s[3], *s[2:]]),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,  # its weights are transposed
    "GRU": _recurrent,
    "RNN": _recurrent,
}
