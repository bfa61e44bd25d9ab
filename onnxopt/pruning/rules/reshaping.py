"""Reshape, Flatten: which axes before and after hold the same channels, and which of several factors carries them.

An axis that is split into factors (heads x width, groups x channels a group) can be cut along one of them only, since
what stays must be a box. The factor that carries is read off what follows: the one that a MatMul goes over as a batch
(attention heads), or that a normalisation takes as its channels (groups), else the largest that nothing indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import array_of, int_attribute, is_op
from onnxopt.pruning.adjust import ShapeEntries
from onnxopt.pruning.channels import Axis, Ids
from onnxopt.pruning.rules.elementwise import read
from onnxopt.pruning.shape_elements import Fixed, Product, Size, trace
from onnxopt.pruning.walk import Axes, Declined, Walk

__all__ = ["flatten", "reshape"]

DEPTH = 12
"""Nodes that are looked at behind a Reshape."""
PASSING = (
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Cast",
    "Identity",
    "Softmax",
    "Relu",
    "Sigmoid",
    "Neg",
    "Sqrt",
    "Clip",
    "Where",
    "Expand",
)
NORMS = ("InstanceNormalization", "BatchNormalization", "GroupNormalization")


def flatten(node: ir.Node, walk: Walk) -> None:
    """A Reshape to two axes."""
    walk.put(node.outputs[0], _moved(node, walk))


def reshape(node: ir.Node, walk: Walk) -> None:
    """Follows the axes, and notes which entries of the shape must follow them."""
    axes = _moved(node, walk)
    value = read(node)
    elements = trace(read(node, 1), walk)
    zero_copies = not int_attribute(node, "allowzero", 0)
    entries: dict[int, Ids] = {}
    for place, axis in enumerate(axes):
        element = elements[place] if elements is not None and len(elements) == len(axes) else None
        match element:
            case Fixed(-1):
                continue
            case Fixed(0) if zero_copies:
                walk.tie(axis, walk.axis(value, place), "Reshape takes over its size")
            case Fixed():
                if axis is not None:
                    entries[place] = axis
            case Size(owner, index):
                walk.tie(axis, walk.axis(owner, index), "a shape is made of its size")
            case Product(parts):
                _keep_unless_repeated(axis, parts, walk)
            case None:
                walk.channels.pin(axis, "its size is computed")
    if entries:
        walk.adjustments.append(ShapeEntries(node, 1, entries, walk))
    walk.put(node.outputs[0], axes)


def _keep_unless_repeated(axis: Axis, parts: Sequence[Size], walk: Walk) -> None:
    """A product of sizes follows by itself where one of them is cut, and the axis holds its channels so many times."""
    cut = [ids for ids in (walk.axis(part.value, part.axis) for part in parts) if ids is not None]
    if len(cut) == 1 and axis is not None and not len(axis) % len(cut[0]):
        times = len(axis) // len(cut[0])
        if sorted(walk.channels.roots(axis).tolist()) == sorted(walk.channels.roots(cut[0]).tolist() * times):
            return
    for ids in (axis, *cut):
        walk.channels.pin(ids, "its size is computed")


@dataclass(frozen=True)
class _Place:
    """An axis as a range of strides."""

    axis: int
    stride: int
    size: int

    @property
    def end(self) -> int:
        return self.stride * self.size


def _places(shape: Sequence[int]) -> list[_Place]:
    found: list[_Place] = []
    stride = 1
    for axis in reversed(range(len(shape))):
        if shape[axis] > 1:
            found.append(_Place(axis, stride, shape[axis]))
        stride *= shape[axis]
    return found[::-1]


def _moved(node: ir.Node, walk: Walk) -> Axes:
    """The axes of the output."""
    value, output = read(node), node.outputs[0]
    before, after = walk.shape(value), walk.shape(output)
    if 0 in (*before, *after) or np.prod(before) != np.prod(after):
        raise Declined("its shapes do not say how channels move")
    axes: Axes = [None] * len(after)
    targets = _places(after)
    for place in _places(before):
        ids = walk.axis(value, place.axis)
        if ids is None:
            continue
        met = [t for t in targets if min(place.end, t.end) > max(place.stride, t.stride)]
        if any(not _nested(place, t) for t in met):
            walk.channels.pin(ids, "Reshape mixes it with other axes")
            continue
        if len(met) == 1:
            target = met[0]
            steps = np.arange(target.size) * target.stride // place.stride % place.size
            found = ids[steps]
        else:
            target = _carrier(output, met, place, walk)
            if target is None:
                walk.channels.pin(ids, "Reshape takes it apart, and what follows needs every part")
                continue
            found = _blocks(ids, place, target, walk)
        there = axes[target.axis]
        if there is not None:
            spare, found = (there, found) if walk.are_copies(there) else (ids, there)
            walk.channels.pin(spare, "Reshape merges two axes that could be cut")
        axes[target.axis] = found
    return axes


def _nested(first: _Place, second: _Place) -> bool:
    """Whether the two ranges divide each other evenly where they overlap."""
    low, high = max(first.stride, second.stride), min(first.end, second.end)
    return all(low % p.stride == 0 and p.end % high == 0 and high % low == 0 for p in (first, second))


def _blocks(ids: Ids, place: _Place, target: _Place, walk: Walk) -> Ids:
    """One id for each position of the factor ``target``, whose channels are tied together."""
    factor = np.arange(place.size) * place.stride // target.stride % target.size
    found: list[int] = []
    for position in range(target.size):
        block = ids[factor == position]
        walk.channels.unite_all(block)
        found.append(int(block[0]))
    return np.array(found, np.int64)


def _carrier(output: ir.Value, met: Sequence[_Place], place: _Place, walk: Walk) -> _Place | None:
    inside = [t for t in met if t.stride >= place.stride and t.end <= place.end]
    roles = {t.axis: _role(output, t.axis, DEPTH, walk) for t in inside}
    for target in inside:
        if roles[target.axis] == "batch":
            return target
    free = [t for t in inside if roles[t.axis] == "free"]
    return max(free, key=lambda t: t.size) if free else None


def _role(value: ir.Value, axis: int, depth: int, walk: Walk) -> str:
    """What the nodes behind ``value`` do with an axis: ``"batch"``, ``"needed"`` as it is, or nothing: ``"free"``."""
    if depth == 0:
        return "free"
    for use in value.uses():
        found = _use(use.node, use.idx, value, axis, depth, walk)
        if found != "free":
            return found
    return "free"


def _use(node: ir.Node, index: int, value: ir.Value, axis: int, depth: int, walk: Walk) -> str:
    rank = _rank(value, walk)
    if is_op(node, "MatMul"):
        return "free" if rank is None else "batch" if axis < rank - 2 else "needed"
    if is_op(node, *NORMS):
        return "batch" if axis == 1 else "needed"
    if is_op(node, "LayerNormalization", "RMSNormalization", "ReduceMean", "ReduceSum"):
        return "needed" if rank is None or axis == rank - 1 else "free"
    if is_op(node, "Attention"):
        return "batch" if axis == 1 else "needed"
    if is_op(node, "Transpose"):
        order = list(node.attributes.get_ints("perm") or ())
        return _role(node.outputs[0], order.index(axis), depth - 1, walk) if order else "free"
    if is_op(node, "Split", "Gather", "Slice") and index == 0:
        return _taken(node, axis, rank, depth, walk)
    if is_op(node, "Concat"):
        own = int_attribute(node, "axis", 0) or 0
        return "needed" if rank is not None and own % rank == axis else _role(node.outputs[0], axis, depth - 1, walk)
    if is_op(node, "Squeeze", "Unsqueeze"):
        return _role(node.outputs[0], _shifted(node, axis, rank), depth - 1, walk)
    if is_op(node, "Reshape") and index == 0:
        target = _merged(value, node.outputs[0], axis, walk)
        goes_over = target is not None and _role(node.outputs[0], target, depth - 1, walk) == "batch"
        return "batch" if goes_over else "free"  # what needs the merged axis needs none of its factors more
    if is_op(node, *PASSING):
        made = _rank(node.outputs[0], walk)
        gap = 0 if made is None or rank is None else made - rank
        return _role(node.outputs[0], axis + gap, depth - 1, walk)
    return "free"


def _merged(value: ir.Value, output: ir.Value, axis: int, walk: Walk) -> int | None:
    """The one axis behind a Reshape that an axis in front of it becomes, or a part of."""
    before, after = walk.shapes.get(value.name or ""), walk.shapes.get(output.name or "")
    if before is None or after is None or 0 in (*before, *after):
        return None
    place = next((p for p in _places(before) if p.axis == axis), None)
    if place is None:
        return None
    met = [t for t in _places(after) if min(place.end, t.end) > max(place.stride, t.stride)]
    return met[0].axis if len(met) == 1 else None


def _taken(node: ir.Node, axis: int, rank: int | None, depth: int, walk: Walk) -> str:
    """Behind Split, Gather or Slice, which need the axis that they take parts of."""
    if is_op(node, "Slice"):
        found = node.attributes.get_ints("axes")
        given = array_of(node.inputs[3]) if len(node.inputs) > 3 else None
        axes = given.ravel().tolist() if given is not None else list(found or ())
    else:
        axes = [int_attribute(node, "axis", 0) or 0]
    if rank is None or any(a % rank == axis for a in axes):
        return "needed"
    drops = is_op(node, "Gather") and _is_scalar(node.inputs[1]) and axes[0] % rank < axis
    roles = [_role(output, axis - drops, depth - 1, walk) for output in node.outputs]
    return next((role for role in roles if role != "free"), "free")


def _rank(value: ir.Value, walk: Walk) -> int | None:
    shape = walk.shapes.get(value.name or "")
    return None if shape is None else len(shape)


def _is_scalar(value: ir.Value | None) -> bool:
    array = array_of(value)
    return array is not None and array.ndim == 0


def _shifted(node: ir.Node, axis: int, rank: int | None) -> int:
    given = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = given.ravel().tolist() if given is not None else list(node.attributes.get_ints("axes") or ())
    if rank is None:
        return axis
    if is_op(node, "Squeeze"):
        return axis - sum(1 for a in axes if a % rank < axis)
    for a in sorted(a % (rank + len(axes)) for a in axes):
        axis += a <= axis
    return axis
