"""Normalisations: exact where a channel is normalised by itself; over channels nothing is cut."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.passes.constants import int_attribute
from onnxopt.pruning.adjust import CountAttribute
from onnxopt.pruning.rules.elementwise import aligned, read
from onnxopt.pruning.walk import Declined, Walk

__all__ = ["across", "batch_norm", "group_norm", "instance_norm", "layer_norm", "lp", "variance", "weighed_slope"]

OVER = "{} runs over its channels: without one of them the others change"


def batch_norm(node: ir.Node, walk: Walk) -> None:
    """Four constants with a number a channel."""
    if int_attribute(node, "training_mode", 0):
        raise Declined("it is in training mode")
    _per_channel(node, walk, 5)
    walk.keep.add(read(node, 4))


def instance_norm(node: ir.Node, walk: Walk) -> None:
    """Scale and bias with a number a channel."""
    _per_channel(node, walk, 3)


def _per_channel(node: ir.Node, walk: Walk, count: int) -> None:
    value = read(node)
    rank = len(walk.shape(value))
    walk.pin_axes(value, (0, *range(2, rank)), f"{node.op_type} runs over it")
    ids = walk.axis(value, 1)
    for index in range(1, count):
        parameter = read(node, index)
        if not walk.is_constant(parameter):
            raise Declined("its parameters are no constants")
        ids = walk.tie(ids, walk.axis(parameter, 0), f"{node.op_type} has a parameter that is never cut")
    for output in node.outputs[:1]:
        walk.put(output, [None, ids, *[None] * (rank - 2)])


def group_norm(node: ir.Node, walk: Walk) -> None:
    """Whole groups can go; scale and bias have a number a group before opset 21, a number a channel since."""
    value = read(node)
    rank, groups = len(walk.shape(value)), int_attribute(node, "num_groups", 0)
    if not groups:
        raise Declined("its number of groups is not known")
    walk.pin_axes(value, (0, *range(2, rank)), f"{node.op_type} runs over it")
    ids = walk.axis(value, 1)
    heads = None
    if ids is not None:
        table = ids.reshape(groups, -1)
        for row in table:
            walk.channels.unite_all(row)
        heads = table[:, 0].copy()
        walk.adjustments.append(CountAttribute(node, "num_groups", heads))
    for index in (1, 2):
        parameter = read(node, index)
        if not walk.is_constant(parameter):
            raise Declined("its parameters are no constants")
        per_group = walk.shape(parameter)[0] == groups and ids is not None and groups != len(ids)
        walk.tie(heads if per_group else ids, walk.axis(parameter, 0), "it has a parameter that is never cut")
    walk.put(node.outputs[0], [None, ids, *[None] * (rank - 2)])


def layer_norm(node: ir.Node, walk: Walk) -> None:
    """All axes from ``axis`` on are normalised over; those of all inputs."""
    value = read(node)
    rank = len(walk.shape(value))
    axis = int_attribute(node, "axis", -1)
    if axis is None:
        raise Declined("its axis is not known")
    over = range(axis % rank, rank)
    walk.pin_axes(value, over, OVER.format(node.op_type))
    for parameter in node.inputs[1:]:
        walk.pin(parameter, OVER.format(node.op_type))
    for output in node.outputs:  # the mean and the deviation have size 1 along the axes that are normalised
        walk.put(output, [None if i in over else walk.axis(value, i) for i in range(rank)])


def across(node: ir.Node, walk: Walk) -> None:
    """LRN: neighbouring channels enter."""
    value = read(node)
    walk.pin(value, OVER.format(node.op_type))


def lp(node: ir.Node, walk: Walk) -> None:
    """LpNormalization: along one axis."""
    value = read(node)
    rank = len(walk.shape(value))
    axis = int_attribute(node, "axis", -1)
    if axis is None:
        raise Declined("its axis is not known")
    walk.pin_axes(value, [axis], OVER.format(node.op_type))
    walk.put(node.outputs[0], [None if i == axis % rank else walk.axis(value, i) for i in range(rank)])


def variance(node: ir.Node, walk: Walk) -> None:
    """MeanVarianceNormalization: along several axes, by default all but the channels."""
    value = read(node)
    rank = len(walk.shape(value))
    over = {a % rank for a in node.attributes.get_ints("axes") or (0, 2, 3)}
    walk.pin_axes(value, over, f"{node.op_type} runs over it")
    walk.put(node.outputs[0], [None if i in over else walk.axis(value, i) for i in range(rank)])


def weighed_slope(node: ir.Node, walk: Walk) -> None:
    """PRelu: the slope broadcasts to the input."""
    axes = aligned([read(node), read(node, 1)], walk, "its slope is never cut")
    walk.put(node.outputs[0], axes)
