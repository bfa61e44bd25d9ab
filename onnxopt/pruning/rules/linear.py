"""Conv, ConvTranspose, Gemm, MatMul: what is read goes with one axis of the weights, what is made with the other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import int_attribute, is_op, single_reader
from onnxopt.pruning.adjust import CountAttribute
from onnxopt.pruning.channels import Axis
from onnxopt.pruning.rules.elementwise import aligned, read
from onnxopt.pruning.walk import Declined, Linear, Walk

__all__ = ["conv", "conv_transpose", "gemm", "matmul"]


def _weights(node: ir.Node, walk: Walk) -> tuple[ir.Value, ir.Value, ir.Value | None, int]:
    data, weight = read(node), read(node, 1)
    if not walk.is_constant(weight):
        raise Declined("its weights are no constant")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not walk.is_constant(bias):
        raise Declined("its bias is no constant")
    group = int_attribute(node, "group", 1)
    if group is None:
        raise Declined("its number of groups is not known")
    rank = len(walk.shape(data))
    walk.pin_axes(data, (0, *range(2, rank)), f"{node.op_type} slides over it")
    return data, weight, bias, group


def conv(node: ir.Node, walk: Walk) -> None:
    """Weight (out, in / group, *kernel); a depthwise Conv passes its channels through."""
    data, weight, bias, group = _weights(node, walk)
    count, channels = walk.shape(weight)[0], walk.shape(data)[1]
    fixed = f"{node.op_type} reads it together with what is never cut"
    read_ids, made = walk.axis(data, 1), walk.axis(weight, 0)
    in_axis = 1
    if group == 1:
        walk.tie(read_ids, walk.axis(weight, 1), fixed)
    elif group == channels:
        in_axis, made = -1, _depthwise(node, walk, read_ids, made, count // group)
    else:
        if read_ids is not None:
            rows = read_ids.reshape(group, -1)
            for row in rows[1:]:
                walk.channels.unite(rows[0], row)
            read_ids = rows[0]
        walk.tie(read_ids, walk.axis(weight, 1), fixed)
        if made is not None:
            rows = made.reshape(group, -1)
            for row in rows[1:]:
                walk.channels.unite(rows[0], row)
    if bias is not None:
        walk.tie(walk.axis(bias, 0), made, fixed)
    walk.linears.append(Linear(node, data, 1, weight, in_axis, 0, bias))
    walk.put(node.outputs[0], [None, made, *[None] * (len(walk.shape(data)) - 2)])


def _depthwise(node: ir.Node, walk: Walk, read_ids: Axis, made: Axis, each: int) -> Axis:
    """One group a channel: the ``each`` channels made of one go with it."""
    if read_ids is None or made is None:
        walk.channels.pin(made, "it is made of one channel that is never cut")
        walk.channels.pin(read_ids, "it is made of one channel that is never cut")
        return None
    for column in made.reshape(-1, each).T:
        walk.channels.unite(read_ids, column)
    walk.adjustments.append(CountAttribute(node, "group", read_ids))
    return made


def conv_transpose(node: ir.Node, walk: Walk) -> None:
    """Weight (in, out / group, *kernel)."""
    data, weight, bias, group = _weights(node, walk)
    channels = walk.shape(data)[1]
    read_ids = walk.axis(data, 1)
    depthwise = group == channels and group > 1 and walk.shape(weight)[1] == 1
    fixed = f"{node.op_type} reads it together with what is never cut"
    tied = walk.tie(read_ids, walk.axis(weight, 0), fixed)
    if depthwise:
        made = tied
        if tied is not None:
            walk.adjustments.append(CountAttribute(node, "group", tied))
    else:
        if group > 1 and tied is not None:
            rows = tied.reshape(group, -1)
            for row in rows[1:]:
                walk.channels.unite(rows[0], row)
        out = walk.axis(weight, 1)
        made = None if out is None else np.tile(out, group)
    if bias is not None:
        walk.tie(walk.axis(bias, 0), made, fixed)
    if group == 1:
        walk.linears.append(Linear(node, data, 1, weight, 0, 1, bias))
    walk.put(node.outputs[0], [None, made, *[None] * (len(walk.shape(data)) - 2)])


def gemm(node: ir.Node, walk: Walk) -> None:
    """``A' B' + C``; with a constant ``B`` a linear layer."""
    first, second = read(node), read(node, 1)
    turned, swapped = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    if turned is None or swapped is None:
        raise Declined("whether it transposes is not known")
    rows, inner = (1, 0) if turned else (0, 1)
    in_axis, out_axis = (1, 0) if swapped else (0, 1)
    _contract(node, walk, first, inner, second, in_axis)
    axes = [walk.axis(first, rows), walk.axis(second, out_axis)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    walk.put(node.outputs[0], axes)
    if bias is not None:
        axes = aligned([node.outputs[0], bias], walk, "Gemm adds what is never cut")
        walk.put(node.outputs[0], axes)
    own = bias if bias is not None and walk.is_constant(bias) else None
    if walk.is_constant(second) and not turned and not walk.is_constant(first):
        walk.linears.append(Linear(node, first, 1, second, in_axis, out_axis, own))


def matmul(node: ir.Node, walk: Walk) -> None:
    """The last axis of the first with the last but one of the second; the axes in front of them are batches."""
    first, second = read(node), read(node, 1)
    if min(len(walk.shape(first)), len(walk.shape(second))) < 2:
        raise Declined("one of its inputs is a vector")
    _contract(node, walk, first, -1, second, -2)
    batches = _batches(first, second, walk)
    walk.put(node.outputs[0], [*batches, walk.axis(first, -2), walk.axis(second, -1)])
    if walk.is_constant(second) and not walk.is_constant(first) and len(walk.shape(second)) == 2:
        rank = len(walk.shape(first))
        walk.linears.append(Linear(node, first, rank - 1, second, 0, 1, _added(node, walk)))


def _batches(first: ir.Value, second: ir.Value, walk: Walk) -> list[Axis]:
    shapes = [walk.shape(first), walk.shape(second)]
    rank = max(len(s) for s in shapes) - 2
    found: list[Axis] = []
    for place in range(rank):
        axes: list[Axis] = []
        for value, shape in zip((first, second), shapes, strict=True):
            axis = place - (rank - len(shape) + 2)
            if axis >= 0 and shape[axis] != 1:
                axes.append(walk.axis(value, axis))
        joined = axes[0] if axes else None
        if len(axes) == 2:
            joined = walk.tie(axes[0], axes[1], "MatMul goes over it together with what is never cut")
        found.append(joined)
    return found


def _contract(node: ir.Node, walk: Walk, first: ir.Value, axis: int, second: ir.Value, other: int) -> None:
    """Ties the axes that are summed over; products of two values that are computed cannot lose a term exactly."""
    if walk.is_constant(first) or walk.is_constant(second):
        reason = f"{node.op_type} sums over it together with what is never cut"
        walk.tie(walk.axis(first, axis), walk.axis(second, other), reason)
        return
    for value, place in ((first, axis), (second, other)):
        walk.pin_axes(value, [place], f"{node.op_type} sums over products of two values that are computed")


def _added(node: ir.Node, walk: Walk) -> ir.Value | None:
    """The constant, one number a channel, that an Add behind a MatMul adds."""
    reader = single_reader(node.outputs[0])
    if not is_op(reader, "Add") or reader is None:
        return None
    other = [value for value in reader.inputs if value is not node.outputs[0]]
    if len(other) != 1 or other[0] is None or not walk.is_constant(other[0]):
        return None
    shape = walk.shape(other[0])
    width = walk.shape(node.outputs[0])[-1]
    return other[0] if shape and shape[-1] == width and int(np.prod(shape)) == width else None
