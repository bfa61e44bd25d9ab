"""Is a model quantized already? Its rounding cannot be undone, and rounding again only adds to it.

What is left in float may be quantized on: values that existing QuantizeLinear / DequantizeLinear pairs already put on a
grid then keep that grid, and get no second pair.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, nodes
from onnxopt.errors import ModelError, NothingChangedError
from onnxopt.passes.constants import array_of, is_op
from onnxopt.quantization.select import COMPUTE

__all__ = ["dequantizer", "existing_grid", "has_quantized_weight", "is_integer", "leaves_on_grid", "require_float"]

INTEGER_COMPUTE = frozenset(
    {
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
        *("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"),
    }
)
"""Operators of ONNX and of ONNX Runtime's own domain that compute on integer weights."""


def require_float(model: Model, where: str, *, requantize: bool = False) -> None:
    """Refuses a model some of whose Conv, Gemm or MatMul run on integers; a (de)quantized input alone is no reason.

    Args:
        model: The model.
        where: Its file, for messages.
        requantize: Accept it as long as some of them are float.

    Raises:
        ModelError: There are such nodes.
        NothingChangedError: All are, and ``requantize`` asks for the others.
    """
    found = Counter(n.op_type for n in nodes(model) if is_integer(n))
    if not found:
        return
    named = ", ".join(f"{count}x {op}" for op, count in found.most_common(3))
    if not requantize:
        raise ModelError(
            f"the model is already quantized: {named} on integer weights",
            where=where,
            fix="quantize the float model that it was made from, or what is float in this one with --requantize",
        )
    if not any(n.op_type in COMPUTE and n.domain == "" and not is_integer(n) for n in nodes(model)):
        raise NothingChangedError(
            f"nothing is left to quantize: {named} run on integers already, and no Conv, Gemm or MatMul is float",
            where=where,
            fix="use the model as it is, or quantize the float model that it was made from",
        )


def is_integer(node: ir.Node) -> bool:
    """Whether the node computes on integer weights, itself or through a DequantizeLinear."""
    if node.op_type in INTEGER_COMPUTE:
        return True
    return node.op_type in COMPUTE and node.domain == "" and has_quantized_weight(node)


def has_quantized_weight(node: ir.Node) -> bool:
    """Whether the second input of the node is dequantized."""
    return len(node.inputs) > 1 and dequantizer(node.inputs[1]) is not None


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear, of ONNX or of ONNX Runtime's own domain, that makes ``value``; ``None``: another node."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.domain not in ("", "com.microsoft"):
        return None
    return producer


def existing_grid(value: ir.Value, dtype: np.dtype[np.integer]) -> tuple[np.float32, int] | None:
    """Scale and zero point of the codes of ``dtype`` that ``value`` is dequantized from; ``None``: there are none.

    A DequantizeLinear of a constant is none: what reads it has no data.
    """
    producer = dequantizer(value)
    if producer is None or constant(producer.inputs[0]) is not None:
        return None
    return _grid(producer, dtype)


def leaves_on_grid(value: ir.Value, dtype: np.dtype[np.integer]) -> bool:
    """Whether all readers of ``value`` are QuantizeLinear nodes that make codes of ``dtype``, in the same way."""
    readers = value.consumers()
    if not readers or value.is_graph_output():
        return False
    grids = {_grid(r, dtype) if is_op(r, "QuantizeLinear") and r.inputs[0] is value else None for r in readers}
    return len(grids) == 1 and None not in grids


def _grid(node: ir.Node, dtype: np.dtype[np.integer]) -> tuple[np.float32, int] | None:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear that has one of each, of this type."""
    scale = array_of(node.inputs[1])
    point = array_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if scale is None or point is None or scale.size != 1 or scale.dtype != np.float32 or point.dtype != dtype:
        return None
    return np.float32(scale.reshape(())), int(point.reshape(()))
