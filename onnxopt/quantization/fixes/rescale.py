"""Moves a scale for each channel from the weights that write a region to the weights that read it.

``W x + b`` becomes ``(W / s) x + b / s`` where it writes, ``(W s)`` where it reads; computed in float64.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of
from onnxopt.core.query import constant
from onnxopt.core.tensors import Array, read
from onnxopt.passes.constants import array_of, int_attribute, tensor_of
from onnxopt.quantization.fixes.regions import Region
from onnxopt.quantization.select import COMPUTE, flag

__all__ = ["SCALES", "matrix", "rescale"]

SCALES = (1e-4, 1e4)
"""The scale of a channel stays between these."""


def matrix(node: ir.Node) -> Array:
    """The weights of a Conv, Gemm or MatMul as float64 (groups, outputs of a group, inputs of a group, positions)."""
    tensor = constant(node.inputs[1])
    if tensor is None:
        raise ValueError(f"{node.name!r} has no constant weight")
    weight = read(tensor).astype(np.float64)
    if node.op_type == "Conv":
        groups = int_attribute(node, "group", 1) or 1
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return (weight if flag(node, "transB") else weight.T)[None, :, :, None]


def rescale(editor: Editor, region: Region, scale: Array) -> None:
    """Divides what writes the region and multiplies what reads it by ``scale``, (channels,) float64.

    A use that a scale cannot be folded into reads the value times ``scale`` instead.
    """
    for node in region.writers:
        if node.op_type in COMPUTE:
            view = matrix(node)
            _set_matrix(editor, node, view / scale.reshape(view.shape[0], -1, 1, 1))
        for index in (0, 1) if node.op_type == "Mul" else (2,) if node.op_type in COMPUTE else (1, 2):
            _divide(editor, node, index, scale)
    for node, index in region.shifts:
        _divide(editor, node, index, scale)
    for node in region.readers:
        view = matrix(node)
        wide = np.repeat(scale, view.shape[0] * view.shape[2] // len(scale))
        _set_matrix(editor, node, view * wide.reshape(view.shape[0], 1, -1, 1))
    _restore(editor, region, scale)


def _restore(editor: Editor, region: Region, scale: Array) -> None:
    restored: dict[ir.Value, ir.Value] = {}
    for node, index in region.others:
        value = node.inputs[index]
        producer = None if value is None else value.producer()
        if value is None or producer is None:
            raise ValueError(f"input {index} of {node.name!r} is made by no node")
        if value not in restored:
            factor = editor.add_constant(f"{value.name}_scale", scale.astype(np.float32), before=producer)
            product = ir.node("Mul", [value, factor], name=editor.fresh_name(f"{value.name}_restore"))
            product.outputs[0].name = editor.fresh_name(f"{value.name}_restored")
            product.outputs[0].type, product.outputs[0].shape = value.type, value.shape
            graph_of(producer).insert_after(producer, product)
            restored[value] = product.outputs[0]
        node.replace_input_with(index, restored[value])


def _divide(editor: Editor, node: ir.Node, index: int, scale: Array) -> None:
    """Divides a constant input of one value a channel by ``scale``; an input that is absent or computed stays."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = array_of(value)
    if value is not None and array is not None:
        _set(editor, node, index, value, array.astype(np.float64) / scale.reshape(array.shape))


def _set_matrix(editor: Editor, node: ir.Node, view: Array) -> None:
    weight = node.inputs[1]
    tensor = tensor_of(weight)
    if weight is None or tensor is None:
        raise ValueError(f"{node.name!r} has no constant weight")
    shape = tuple(int(size) for size in tensor.shape.numpy())
    plain = view.reshape(shape) if node.op_type == "Conv" or flag(node, "transB") else view[0, :, :, 0].T
    _set(editor, node, 1, weight, plain)


def _set(editor: Editor, node: ir.Node, index: int, old: ir.Value, array: Array) -> None:
    name = f"{old.name or 'constant'}_rescaled"
    new = editor.add_constant(name, np.ascontiguousarray(array, np.float32), before=node)
    node.replace_input_with(index, new)
    clear_unused([old])
