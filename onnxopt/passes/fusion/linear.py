"""Linear operators with constant weights, ``y = W x + c`` with one axis of output channels, scaled and shifted.

Folding ``z = a * y + b`` (one ``a`` and ``b`` a channel) gives ``W' = a W`` and ``c' = a c + b``; computed in float64,
then cast back to the type of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, remove_node
from onnxopt.core.tensors import Array
from onnxopt.passes.constants import (
    FLOATS,
    array_of,
    int_attribute,
    is_op,
    reason_not_constant,
    single_reader,
    tensor_of,
)
from onnxopt.passes.shapes import DerivedShapes

__all__ = ["Affine", "Linear", "fold_affine", "linear_before"]

LINEAR_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Sizes: TypeAlias = "tuple[int, ...]"
RESOLUTION = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
"""Largest rounding error of a normal number, relative to it."""


@dataclass(frozen=True)
class Affine:
    """``z = scale * y + shift`` for each output channel.

    Attributes:
        scale: ``(channels,)`` or ``(1,)`` float64.
        shift: ``(channels,)`` or ``(1,)`` float64.
    """

    scale: Array
    shift: Array


@dataclass(frozen=True)
class Linear:
    """A node that an affine map of its output channels can be folded into.

    Attributes:
        node: Conv, ConvTranspose, Gemm or (only where the input has rank 2) MatMul.
        weight: Array of the weights.
        bias: Array ``(channels,)``, ``None`` when absent.
        scale_shape: Shape to give to a per-channel scale so that it multiplies ``weight`` viewed as ``view``.
        view: Shape in which the weights are seen while they are scaled.
        channels: Number of output channels.
        rank: Rank of the output.
    """

    node: ir.Node
    weight: Array
    bias: Array | None
    scale_shape: tuple[int, ...]
    view: tuple[int, ...]
    channels: int
    rank: int


def linear_before(value: ir.Value | None, reader: ir.Node, shapes: DerivedShapes) -> Linear | str | None:
    """The linear operator that makes ``value`` for ``reader`` alone.

    Returns:
        The operator, a reason why nothing can be folded into it, or ``None`` when ``value`` comes from something else.
    """
    node = value.producer() if value is not None else None
    if value is None or node is None or not is_op(node, *LINEAR_OPS):
        return None
    if node.graph is not reader.graph:
        return f"the {node.op_type} is in another graph"
    if value.is_graph_output():
        return f"the output of the {node.op_type} is also an output of the graph"
    if single_reader(value) is None:
        return f"the output of the {node.op_type} is used elsewhere"
    weight = node.inputs[1]
    tensor = tensor_of(weight)
    if weight is None or tensor is None:
        return f"the weight of the {node.op_type} {reason_not_constant(weight)}"
    if tensor.dtype not in FLOATS:
        return f"the weight of the {node.op_type} is {tensor.dtype.name}"
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return f"the weight of the {node.op_type} is shared, a second copy would make the model larger"
    shape = tuple(int(size) for size in tensor.shape.numpy())
    layout = _layout(node, shape, shapes)
    if isinstance(layout, str):
        return layout
    view, scale_shape, channels = layout
    bias = _bias(node, channels)
    if isinstance(bias, str):
        return bias
    array = array_of(weight)
    assert array is not None
    return Linear(node, array, bias, scale_shape, view, channels, len(shape))


def _layout(node: ir.Node, shape: tuple[int, ...], shapes: DerivedShapes) -> tuple[Sizes, Sizes, int] | str:
    """The view of the weights, the shape of a scale in it, and the number of output channels."""
    if len(shape) < 2:
        return f"the weight of the {node.op_type} has rank {len(shape)}"
    ones = (1,) * (len(shape) - 2)
    match node.op_type:
        case "Conv":
            return shape, (shape[0], 1, *ones), shape[0]
        case "ConvTranspose":
            group = int_attribute(node, "group", 1)
            if group is None:
                return "the group is decided by the caller of the function"
            if group < 1 or shape[0] % group:
                return f"{shape[0]} input channels cannot be split into {group} groups"
            view = (group, shape[0] // group, *shape[1:])
            return view, (group, 1, shape[1], *ones), group * shape[1]
        case "Gemm":
            transposed = int_attribute(node, "transB", 0)
            if transposed is None or any(a.is_ref() for a in node.attributes.values()):
                return "an attribute is decided by the caller of the function"
            if len(shape) != 2:
                return f"the weight has rank {len(shape)}"
            return (shape, (shape[0], 1), shape[0]) if transposed else (shape, (1, shape[1]), shape[1])
        case _:
            rank = shapes.of(node.inputs[0])
            if len(shape) != 2 or rank is None or len(rank) != 2:
                return "the MatMul is not known to be of rank 2"
            return shape, (1, shape[1]), shape[1]


def _bias(node: ir.Node, channels: int) -> Array | str | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    array = array_of(value)
    if array is None:
        return f"the bias of the {node.op_type} {reason_not_constant(value)}"
    if array.size == channels and array.shape[-1:] == (channels,):
        return array.reshape(channels)
    if array.size == 1:
        return np.broadcast_to(array.reshape(1), (channels,))
    return f"the bias of the {node.op_type} has shape {list(array.shape)}, not one value a channel"


def fold_affine(editor: Editor, linear: Linear, affine: Affine, last: ir.Node) -> str | None:
    """Folds ``affine``, which the node ``last`` applies to the operator's output, and removes ``last``.

    Returns:
        ``None`` when folded, else why it is not.
    """
    node, dtype = linear.node, linear.weight.dtype
    scale = np.broadcast_to(affine.scale, (linear.channels,))
    bias = np.zeros(linear.channels) if linear.bias is None else linear.bias.astype(np.float64)
    if node.op_type == "Gemm" and "beta" in node.attributes:
        bias = bias * node.attributes["beta"].as_float()
    with np.errstate(all="ignore"):
        exact = linear.weight.astype(np.float64).reshape(linear.view) * scale.reshape(linear.scale_shape)
        weight, new_bias = exact.astype(dtype), (bias * scale + affine.shift).astype(dtype)
        if not (np.isfinite(weight).all() and np.isfinite(new_bias).all()):
            return f"the folded weights do not fit into {dtype.name}"
        if _loses_precision(exact, weight, linear.scale_shape):
            return f"the folded weights are too small for {dtype.name}"
    old = list(node.inputs[1:])
    name = old[0].name if old[0] is not None else None
    node.replace_input_with(1, editor.add_constant(f"{name}_folded", weight.reshape(linear.weight.shape), before=node))
    if linear.bias is not None or np.any(new_bias):
        node = _with_bias(editor, node, f"{name}_bias", new_bias)
    editor.replace_value(last.outputs[0], node.outputs[0])
    remove_node(last)
    clear_unused(old)
    return None


def _loses_precision(exact: Array, cast: Array, scale_shape: tuple[int, ...]) -> bool:
    """Whether an element is off by more than the type's resolution at its channel's largest one (subnormal numbers)."""
    axes = tuple(axis for axis, size in enumerate(scale_shape) if size == 1)
    largest = np.abs(exact).max(axis=axes, keepdims=True, initial=0.0)
    return bool(np.any(np.abs(exact - cast.astype(np.float64)) > RESOLUTION[cast.dtype.name] * largest))


def _with_bias(editor: Editor, node: ir.Node, name: str, bias: Array) -> ir.Node:
    """The node with this bias; a MatMul becomes a Gemm."""
    if node.op_type == "MatMul":
        value = editor.add_constant(name, bias, before=node)
        output = editor.insert("Gemm", [*node.inputs, value], before=node, base=f"{node.outputs[0].name}_gemm")
        output.type, output.shape = node.outputs[0].type, node.outputs[0].shape
        editor.replace_node(node, [output])
        gemm = output.producer()
        assert gemm is not None
        return gemm
    node.resize_inputs(3)
    node.replace_input_with(2, editor.add_constant(name, bias, before=node))
    node.attributes.pop("beta", None)
    return node
