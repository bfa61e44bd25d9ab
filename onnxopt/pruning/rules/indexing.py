"""Operators that join or take parts of an axis: Concat, Split, Slice, Gather."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import array_of, int_attribute
from onnxopt.pruning.adjust import GatherIndices, SliceBounds, SplitSizes, pieces
from onnxopt.pruning.channels import Axis, Ids
from onnxopt.pruning.rules.elementwise import read
from onnxopt.pruning.walk import Declined, Walk

__all__ = ["concat", "gather", "slice_", "split"]


def concat(node: ir.Node, walk: Walk) -> None:
    """Ids are joined along one axis; the others are tied."""
    values = [value for value in node.inputs if value is not None]
    rank = len(walk.shape(values[0]))
    own = int_attribute(node, "axis", 0)
    if own is None:
        raise Declined("its axis is not known")
    own %= rank
    axes: list[Axis] = []
    for place in range(rank):
        found = [walk.axis(value, place) for value in values]
        if place == own:
            if all(ids is None for ids in found):
                axes.append(None)
                continue
            parts: list[Ids] = []
            for value, ids in zip(values, found, strict=True):
                part = walk.channels.fresh(walk.shape(value)[own]) if ids is None else ids
                if ids is None:
                    walk.channels.pin(part, "what Concat joins here is never cut")
                parts.append(part)
            axes.append(np.concatenate(parts))
            continue
        joined = found[0]
        for other in found[1:]:
            joined = walk.tie(joined, other, "Concat joins it with what is never cut")
        axes.append(joined)
    walk.put(node.outputs[0], axes)


def split(node: ir.Node, walk: Walk) -> None:
    """Each output has its part of the ids; the sizes follow."""
    value = read(node)
    axes = walk.axes(value)
    own = int_attribute(node, "axis", 0)
    if own is None:
        raise Declined("its axis is not known")
    own %= len(axes)
    parts = pieces(axes[own], [walk.shape(output)[own] for output in node.outputs])
    if axes[own] is not None:
        walk.adjustments.append(SplitSizes(node, tuple(p for p in parts if p is not None), walk.opset))
    for output, part in zip(node.outputs, parts, strict=True):
        walk.put(output, [*axes[:own], part, *axes[own + 1 :]])


def slice_(node: ir.Node, walk: Walk) -> None:
    """Ids are taken with step 1 between constant bounds, which follow."""
    value = read(node)
    axes, sizes = walk.axes(value), walk.shape(value)
    made = list(axes)
    bounds: dict[int, tuple[Ids, int, int]] = {}
    for position, (axis, start, end, step) in enumerate(_bounds(node, walk, len(axes))):
        ids = axes[axis]
        if ids is None:
            continue
        first, last, stride = slice(start, end, step).indices(sizes[axis])
        if stride != 1 or last <= first:
            walk.channels.pin(ids, "Slice takes it in steps")
            made[axis] = None
            continue
        bounds[position] = (ids, first, last)
        made[axis] = ids[first:last]
    if bounds:
        walk.adjustments.append(SliceBounds(node, bounds, walk.opset))
    walk.put(node.outputs[0], made)


def _bounds(node: ir.Node, walk: Walk, rank: int) -> list[tuple[int, int, int, int]]:
    if walk.opset < 10:
        starts, ends = (list(node.attributes.get_ints(k) or ()) for k in ("starts", "ends"))
        axes = list(node.attributes.get_ints("axes") or range(len(starts)))
        steps = [1] * len(starts)
    else:
        found = [array_of(v) if v is not None else None for v in node.inputs[1:]]
        given = [v is not None for v in node.inputs[1:]]
        axes_known = len(found) < 3 or not given[2] or found[2] is not None
        if not axes_known:
            raise Declined("its axes are computed")
        chosen = found[2] if len(found) > 2 else None
        count = len(chosen) if chosen is not None else rank
        axes = [int(a) % rank for a in (chosen.tolist() if chosen is not None else range(count))]
        if any(found[i] is None for i in (0, 1)) or (len(found) > 3 and given[3] and found[3] is None):
            walk.pin_axes(read(node), axes, "the bounds of Slice are computed")
            return []
        starts, ends = ([int(n) for n in array.ravel()] for array in found[:2] if array is not None)
        last = found[3] if len(found) > 3 else None
        steps = [int(n) for n in last.ravel()] if last is not None else [1] * len(starts)
    return [(a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=False)]


def gather(node: ir.Node, walk: Walk) -> None:
    """Rows of a table keep their width; constant indices take their ids along and are renumbered."""
    value, where = read(node), read(node, 1)
    rank = len(walk.shape(value))
    own = int_attribute(node, "axis", 0)
    if own is None:
        raise Declined("its axis is not known")
    own %= rank
    indices = array_of(where)
    taken: list[Axis] = [None] * len(walk.shape(where))
    if walk.is_constant(value) or indices is None or indices.ndim > 1:
        walk.pin_axes(value, [own], "Gather takes parts of it")
    else:
        ids = walk.axis(value, own)
        if ids is not None:
            walk.adjustments.append(GatherIndices(node, ids))
            if indices.ndim == 0:
                walk.channels.pin(ids[[int(indices)]], "Gather takes it by its number")
            else:
                taken = [ids[indices]]
    others = [None if i == own else walk.axis(value, i) for i in range(rank)]
    walk.put(node.outputs[0], [*others[:own], *taken, *others[own + 1 :]])
