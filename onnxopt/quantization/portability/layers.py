"""The integer layers of an optimized graph that run on saturating kernels where there is no VNNI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array, borrow, read
from onnxopt.passes.constants import int_attribute
from onnxopt.quantization.portability.pairs import Pairs, as_matrix, risky

__all__ = ["Layer", "find_layers"]


@dataclass(frozen=True)
class Slots:
    """Which input of an operator is what; ``None``: it has no such input."""

    data: int
    weight: int
    data_scale: int | None
    weight_scale: int | None
    data_zero: int | None
    weight_zero: int
    output_scale: int | None = None
    output_zero: int | None = None
    bias: int | None = None


SLOTS: Mapping[str, Slots] = {
    "QLinearConv": Slots(0, 3, 1, 4, 2, 5, 6, 7, 8),
    "QLinearMatMul": Slots(0, 3, 1, 4, 2, 5, 6, 7),
    "QGemm": Slots(0, 3, 1, 4, 2, 5, 7, 8, 6),
    "MatMulIntegerToFloat": Slots(0, 1, 2, 3, 4, 5, bias=6),
    "MatMulInteger": Slots(0, 1, None, None, 2, 3),
    "DynamicQuantizeMatMul": Slots(0, 1, None, 2, None, 3, bias=4),
}
NONE = Pairs(np.empty(0, int), np.empty(0, int), np.empty((2, 0), np.int32), 0)
UNKNOWN = frozenset({"QAttention", "DynamicQuantizeLSTM", "QOrderedMatMul"})
"""Operators that multiply U8 by S8 inside and are not simulated."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer that multiplies U8 activations by S8 weights.

    Attributes:
        node: The node of the optimized graph.
        weight: Name of its weight, by which the layer is found again in the model it came from.
        codes: The weight as it is stored, int8.
        groups: Groups of a Conv.
        pairs: Its pairs at risk.
    """

    node: ir.Node
    weight: str
    codes: Array
    groups: int
    pairs: Pairs

    @property
    def is_conv(self) -> bool:
        """Whether it is a Conv."""
        return self.node.op_type == "QLinearConv"

    @property
    def channels(self) -> int:
        """Output channels."""
        return int(self.codes.shape[0 if self.is_conv else self.weight_axis])

    @property
    def weight_axis(self) -> int:
        """The axis of the output channels in ``codes``."""
        return 0 if self.is_conv or int_attribute(self.node, "transB", 0) else 1

    def given(self, role: str) -> ir.Value | None:
        """The input of this role, a field of ``Slots``."""
        index: int | None = getattr(SLOTS[self.node.op_type], role)
        return self.node.inputs[index] if index is not None and index < len(self.node.inputs) else None

    def number(self, role: str) -> Array | None:
        """The constant in this role."""
        tensor = constant(self.given(role))
        return None if tensor is None else read(tensor)


def find_layers(model: Model) -> tuple[tuple[Layer, ...], tuple[Note, ...]]:
    """The layers of an optimized graph that may saturate, and why others that may are not simulated."""
    layers: list[Layer] = []
    notes: list[Note] = []
    for node in nodes(model):
        if node.op_type in UNKNOWN:
            notes.append(Note(label(node), "not simulated", f"the inside of {node.op_type} is not known"))
        elif node.op_type in SLOTS:
            for item in _layer(node):
                if isinstance(item, Layer):
                    layers.append(item)
                else:
                    notes.append(Note(label(node), "not simulated", item))
    return tuple(layers), tuple(notes)


def _layer(node: ir.Node) -> Iterator[Layer | str]:
    """The layer of ``node``, or why it is not simulated; nothing where its kernel is exact."""
    slots = SLOTS[node.op_type]
    weight = node.inputs[slots.weight]
    tensor = constant(weight)
    if weight is None or tensor is None:
        if weight is not None and weight.dtype == ir.DataType.INT8:
            yield "its weight is computed at run time"
        return
    if tensor.dtype != ir.DataType.INT8 or not _reads_unsigned(node, slots):
        return
    groups = int_attribute(node, "group", 1) or 1
    with borrow(tensor) as array:
        if node.op_type == "QLinearConv" and array.shape[1] == 1 and array.shape[0] == groups:
            return  # depthwise
        if node.op_type != "QLinearConv" and array.ndim != 2:
            yield f"its weight has {array.ndim} dimensions"
            return
        layer = Layer(node, weight.name or "", np.array(array), groups, NONE)
    pairs = risky(as_matrix(layer.codes, layer.weight_axis))
    reason = _unknown_form(layer) if len(pairs.first) else None
    yield reason or Layer(node, layer.weight, layer.codes, groups, pairs)


def _reads_unsigned(node: ir.Node, slots: Slots) -> bool:
    """Whether its activations are U8."""
    if slots.data_zero is None:
        return True
    zero = node.inputs[slots.data_zero] if slots.data_zero < len(node.inputs) else None
    tensor, data = constant(zero), node.inputs[slots.data]
    if tensor is not None:
        return tensor.dtype == ir.DataType.UINT8
    producer = None if data is None else data.producer()
    dynamic = producer is not None and producer.op_type == "DynamicQuantizeLinear"
    return dynamic or (data is not None and data.dtype == ir.DataType.UINT8)


def _unknown_form(layer: Layer) -> str | None:
    """Why the simulation cannot stand in for the node."""
    node = layer.node
    if int_attribute(node, "transA", 0) or int_attribute(node, "channels_last", 0):
        return "its data input is transposed"
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() not in ("NOTSET", "VALID", ""):
        return "its padding follows from the size of its input"
    if layer.is_conv and layer.number("data_zero") is None:
        return "its zero point is computed at run time"
    return _not_constant(layer)


def _not_constant(layer: Layer) -> str | None:
    slots = SLOTS[layer.node.op_type]
    roles = ["weight_scale", "weight_zero"]
    if slots.output_scale is not None:
        roles += ["data_scale", "output_scale", "output_zero", "bias"]
    late = next((r for r in roles if layer.given(r) is not None and layer.number(r) is None), None)
    return None if late is None else f"its {late.replace('_', ' ')} is computed at run time"
