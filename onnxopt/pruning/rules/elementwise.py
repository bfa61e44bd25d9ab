"""Operators that treat every position by itself, alone or with broadcasting; pooling; reductions and softmax."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.passes.constants import array_of, int_attribute
from onnxopt.pruning.channels import Axis
from onnxopt.pruning.walk import Axes, Declined, Walk

__all__ = ["aligned", "broadcast", "divide", "normalise", "pool", "read", "reduce", "unary"]


def read(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that must be there.

    Raises:
        Declined: It is not.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Declined(f"input {index} is missing")
    return value


def unary(node: ir.Node, walk: Walk) -> None:
    """Every output has the axes of the first input."""
    axes = walk.axes(read(node))
    for output in node.outputs:
        walk.put(output, axes)


def broadcast(node: ir.Node, walk: Walk) -> None:
    """Axes of equal size are tied, as multidirectional broadcasting aligns them: from the last."""
    values = [value for value in node.inputs if value is not None]
    walk.put(node.outputs[0], aligned(values, walk, f"{node.op_type} joins it with what is never cut"))


def divide(node: ir.Node, walk: Walk) -> None:
    """As ``broadcast``; the second operand keeps its values where channels are zeroed."""
    walk.keep.add(read(node, 1))
    broadcast(node, walk)


def aligned(values: list[ir.Value], walk: Walk, reason: str) -> Axes:
    """The axes of what broadcasting makes of several values, tied together."""
    rank = max(len(walk.shape(value)) for value in values)
    axes: Axes = []
    for place in range(rank):
        found: list[Axis] = []
        for value in values:
            axis = place - (rank - len(walk.shape(value)))
            if axis >= 0 and walk.shape(value)[axis] != 1:
                found.append(walk.axis(value, axis))
        joined = found[0] if found else None
        for other in found[1:]:
            joined = walk.tie(joined, other, reason)
        axes.append(joined)
    return axes


def pool(node: ir.Node, walk: Walk) -> None:
    """Channels stay apart; the axes that the window slides over are never cut."""
    value = read(node)
    rank = len(walk.shape(value))
    walk.pin_axes(value, (0, *range(2, rank)), f"{node.op_type} slides over it")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        walk.pin_axes(value, [1], f"{node.op_type} numbers the elements of all channels")
    for output in node.outputs:
        walk.put(output, [None, walk.axis(value, 1), *[None] * (rank - 2)])


def reduce(node: ir.Node, walk: Walk) -> None:
    """Axes that are summed up are never cut, the others stay."""
    value = read(node)
    rank = len(walk.shape(value))
    axes = node.attributes.get_ints("axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = array_of(node.inputs[1])
        if given is None:
            raise Declined("the axes of the reduction are computed")
        axes = given.ravel().tolist()
    if not axes and int_attribute(node, "noop_with_empty_axes", 0):
        axes, gone = [], set[int]()
    else:
        gone = {int(a) % rank for a in axes} if axes else set(range(rank))
    walk.pin_axes(value, gone, f"{node.op_type} runs over it")
    kept = int_attribute(node, "keepdims", 1)
    found = [None if i in gone else walk.axis(value, i) for i in range(rank) if kept or i not in gone]
    walk.put(node.outputs[0], found)


def normalise(node: ir.Node, walk: Walk) -> None:
    """Softmax and the like: the axis that values are weighed along is never cut (all behind it too before opset 13)."""
    value = read(node)
    rank = len(walk.shape(value))
    axis = int_attribute(node, "axis", -1 if walk.opset >= 13 or node.op_type == "ArgMax" else 1)
    if axis is None:
        raise Declined("its axis is not known")
    axis %= rank
    gone = [axis] if walk.opset >= 13 else list(range(axis, rank))
    walk.pin_axes(value, gone, f"{node.op_type} runs over it")
    walk.put(node.outputs[0], [None if i in gone else walk.axis(value, i) for i in range(rank)])
