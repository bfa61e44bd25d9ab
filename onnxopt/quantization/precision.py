"""In which numbers a model computes, read from the weights of its layers."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from onnxopt.core.cost import COUNTERS
from onnxopt.core.query import Model, constant, nodes
from onnxopt.quantization.existing import INTEGER_COMPUTE, dequantizer

__all__ = ["precision"]

OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm"})
"""Integer operators that take scales as inputs (QOperator format); the other ones find them at run time (dynamic)."""
BLOCKS = "MatMulNBits"
DEFAULT_BITS = 4
FLOATS = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.DOUBLE: "float64",
}
INTEGERS = {
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.INT16: "int16",
    ir.DataType.UINT16: "int16",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "int4",
}


def precision(model: Model) -> str:
    """What the Conv, MatMul, Gemm and recurrent layers with weights compute in.

    ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"float64"``; ``"int8 QDQ"`` (weights and activations between Q and
    DQ nodes), ``"int8 QOperator"``, ``"int8 dynamic"``, ``"int8 weights"`` (activations stay float),
    ``"int4 weights"``; ``"mixed: int8 QDQ, float32"`` where layers differ, most nodes first. Without such a layer: the
    type of the first value that is a floating-point number, else ``"none"``.
    """
    kinds = Counter(kind for node in nodes(model) if (kind := _kind(node)) is not None)
    if len(kinds) > 1:
        return "mixed: " + ", ".join(name for name, _ in kinds.most_common())
    if kinds:
        return next(iter(kinds))
    values = [*model.graph.initializers.values(), *model.graph.inputs, *model.graph.outputs]
    found = (FLOATS[value.dtype] for value in values if value.dtype is not None and value.dtype in FLOATS)
    return next(found, "none")


def _kind(node: ir.Node) -> str | None:
    if node.op_type == BLOCKS:
        bits = node.attributes["bits"].as_int() if "bits" in node.attributes else DEFAULT_BITS
        return f"int{bits} weights"
    if node.op_type in INTEGER_COMPUTE:
        return "int8 QOperator" if node.op_type in OPERATORS else "int8 dynamic"
    if node.op_type not in COUNTERS or len(node.inputs) < 2:
        return None
    data, weight = node.inputs[0], node.inputs[1]
    if weight is None:
        return None
    stored = _dequantized(weight)
    if stored is not None:
        name = INTEGERS.get(stored, stored.name.lower())
        is_full = data is not None and _dequantized(data) is not None
        return f"{name} QDQ" if is_full else f"{name} weights"
    tensor = constant(weight)
    kind = weight.dtype if tensor is None else tensor.dtype
    is_weight = tensor is not None or _is_from_constant(weight)
    return FLOATS.get(kind) if is_weight and kind is not None else None


def _dequantized(value: ir.Value) -> ir.DataType | None:
    """The stored type of what DequantizeLinear makes of it, through layout changes; ``None``: it comes from another."""
    producer = value.producer()
    while producer is not None and producer.op_type in ("Transpose", "Reshape") and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    found = dequantizer(value)
    source = None if found is None else found.inputs[0]
    if source is None:
        return None
    tensor = constant(source)
    return tensor.dtype if tensor is not None else source.dtype or ir.DataType.INT8


def _is_from_constant(value: ir.Value) -> bool:
    """Whether it is a constant behind a Cast or a Transpose."""
    producer = value.producer()
    return (
        producer is not None and producer.op_type in ("Cast", "Transpose") and constant(producer.inputs[0]) is not None
    )
