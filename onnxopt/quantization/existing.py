"""Is a model quantized already? Its rounding cannot be undone, and rounding again only adds to it."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from onnxopt.core.query import Model, nodes
from onnxopt.errors import ModelError
from onnxopt.quantization.select import COMPUTE

__all__ = ["require_float"]

INTEGER_COMPUTE = frozenset(
    {
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
        *("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"),
    }
)
"""Operators of ONNX and of ONNX Runtime's own domain that compute on integer weights."""


def require_float(model: Model, where: str) -> None:
    """Refuses a model some of whose Conv, Gemm or MatMul run on integers; a (de)quantized input alone is no reason.

    Raises:
        ModelError: There are such nodes.
    """
    found = Counter(n.op_type for n in nodes(model) if n.op_type in INTEGER_COMPUTE or _has_integer_weight(n))
    if found:
        named = ", ".join(f"{count}x {op}" for op, count in found.most_common(3))
        raise ModelError(
            f"the model is already quantized: {named} on integer weights",
            where=where,
            fix="quantize the float model that it was made from",
        )


def _has_integer_weight(node: ir.Node) -> bool:
    if node.op_type not in COMPUTE or node.domain != "" or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    producer = node.inputs[1].producer()
    return producer is not None and producer.op_type == "DequantizeLinear"
