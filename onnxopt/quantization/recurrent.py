"""LSTM layers on integer weights: ONNX Runtime's ``com.microsoft.DynamicQuantizeLSTM``.

The kernel quantizes what a step multiplies at run time and takes S8 weights with one scale for each row of a gate. (The
runtime has none for GRU and RNN.) Its weights are transposed: W (directions, inputs, 4 * hidden) int8,
R (directions, hidden, 4 * hidden) int8, with scales and zero points (directions, 4 * hidden).
Source: ``contrib_ops/cpu/quantization/dynamic_quantize_lstm.cc`` of ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of
from onnxopt.core.query import Model, constant
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import reason_not_constant
from onnxopt.quantization.affine import quantize_array, weight_scale
from onnxopt.quantization.scheme import Grid, PerAxis

__all__ = ["RECURRENT", "quantize_lstm", "recurrent_reason"]

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
DOMAIN = "com.microsoft"
INPUTS = 8
"""Inputs of an LSTM; behind them the quantized form has the scales and zero points."""


def recurrent_reason(node: ir.Node) -> str | None:
    """Why an LSTM, GRU or RNN has no integer kernel; ``None`` when it has one."""
    if node.op_type != "LSTM":
        return f"ONNX Runtime has no integer kernel for {node.op_type}"
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "an attribute is decided by the caller of its function"
    if node.attributes.get_int("layout", 0):
        return "its batch comes first, which the integer kernel does not take"
    for index, what in ((1, "weight"), (2, "recurrent weight")):
        value = node.inputs[index]
        tensor = constant(value)
        if tensor is None:
            return f"its {what} {reason_not_constant(value)}"
        if tensor.dtype != ir.DataType.FLOAT:
            return f"its {what} is {tensor.dtype.name.lower()}, not float32"
        with borrow(tensor) as array:
            if not np.isfinite(array).all():
                return f"its {what} holds NaN or infinity"
    return None


def quantize_lstm(edit: Editor, node: ir.Node, grid: Grid) -> None:
    """Replaces an LSTM for which there is no ``recurrent_reason`` by its integer form, which takes its name."""
    inputs = [*node.inputs, *[None] * (INPUTS - len(node.inputs))]
    for index in (1, 2):
        codes, scale, zero = _quantized(edit, node, index, grid)
        inputs[index] = codes
        inputs += [scale, zero]
    attributes = [a for name, a in node.attributes.items() if name != "layout"]
    new = ir.Node(DOMAIN, "DynamicQuantizeLSTM", inputs, attributes, num_outputs=len(node.outputs), name=node.name)
    graph_of(node).insert_before(node, new)
    for old, value in zip(node.outputs, new.outputs, strict=True):
        if old.name:
            value.name = edit.fresh_name(f"{old.name}_quantized")
            value.type, value.shape = old.type, old.shape
        else:
            value.name = old.name
    weights = list(node.inputs[1:3])
    edit.replace_node(node, new.outputs)
    clear_unused(weights)
    _import_domain(edit.model, graph_of(new))


def _quantized(edit: Editor, node: ir.Node, index: int, grid: Grid) -> tuple[ir.Value, ir.Value, ir.Value]:
    value = node.inputs[index]
    tensor = constant(value)
    if tensor is None or value is None:
        raise ValueError(f"input {index} of {node.name!r} is not constant")
    with borrow(tensor) as array:  # (directions, 4 * hidden, inputs)
        rows = array.reshape(-1, array.shape[2])
        scale = weight_scale(rows, PerAxis(0), grid)
        scale = np.where(scale > 0, scale, np.float32(1))
        codes = quantize_array(rows, scale, 0, PerAxis(0), grid).reshape(array.shape)
        scale = scale.reshape(array.shape[:2])
    name = value.name or "weight"
    return (
        edit.add_constant(f"{name}_quantized", np.ascontiguousarray(codes.transpose(0, 2, 1)), before=node),
        edit.add_constant(f"{name}_scale", scale, before=node),
        edit.add_constant(f"{name}_zero_point", np.zeros(scale.shape, grid.dtype), before=node),
    )


def _import_domain(model: Model, graph: ir.Graph) -> None:
    """Lets the model, and the function that ``graph`` belongs to, use the runtime's own operators."""
    model.opset_imports.setdefault(DOMAIN, 1)
    for function in model.functions.values():
        if graph is function.graph or any(graph is inner for inner in function.graph.subgraphs()):
            function.opset_imports.setdefault(DOMAIN, 1)
