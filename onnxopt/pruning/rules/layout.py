"""Operators that move, repeat or fill axes: Transpose, Squeeze, Unsqueeze, DepthToSpace, Pad, Resize, Expand, Tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import array_of, int_attribute
from onnxopt.pruning.adjust import ShapeEntries
from onnxopt.pruning.channels import Axis, Ids
from onnxopt.pruning.rules.elementwise import read
from onnxopt.pruning.shape_elements import Element, Fixed, Product, Size, leaks, trace
from onnxopt.pruning.walk import Declined, Walk

__all__ = [
    "constant_of_shape",
    "depth_to_space",
    "expand",
    "pad",
    "resize",
    "shape",
    "space_to_depth",
    "squeeze",
    "tile",
    "transpose",
    "unsqueeze",
]


def transpose(node: ir.Node, walk: Walk) -> None:
    """Axes change places."""
    axes = walk.axes(read(node))
    order = list(node.attributes.get_ints("perm") or range(len(axes))[::-1])
    walk.put(node.outputs[0], [axes[i] for i in order])


def _axes_of(node: ir.Node) -> list[int] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = array_of(node.inputs[1])
        if given is None:
            raise Declined("its axes are computed")
        return [int(a) for a in given.ravel()]
    found = node.attributes.get_ints("axes")
    return None if found is None else list(found)


def squeeze(node: ir.Node, walk: Walk) -> None:
    """Axes of size 1 go."""
    value = read(node)
    axes, rank = _axes_of(node), len(walk.shape(value))
    if axes is None:
        raise Declined("it drops every axis of size 1, which may be more after cutting")
    gone = {a % rank for a in axes}
    walk.put(node.outputs[0], [walk.axis(value, i) for i in range(rank) if i not in gone])


def unsqueeze(node: ir.Node, walk: Walk) -> None:
    """Axes of size 1 come in."""
    value = read(node)
    axes, rank = _axes_of(node), len(walk.shape(node.outputs[0]))
    new = {a % rank for a in axes or ()}
    old = iter(walk.axes(value))
    walk.put(node.outputs[0], [None if i in new else next(old) for i in range(rank)])


def depth_to_space(node: ir.Node, walk: Walk) -> None:
    """The r x r channels that become one pixel block go together."""
    value, r = read(node), int_attribute(node, "blocksize", 1) or 1
    ids = walk.axis(value, 1)
    walk.pin_axes(value, (0, 2, 3), "DepthToSpace moves it")
    made: Axis = None
    if ids is not None:
        crd = node.attributes.get_string("mode", "DCR") == "CRD"
        table = ids.reshape(-1, r * r) if crd else ids.reshape(r * r, -1).T
        for row in table:
            walk.channels.unite_all(row)
        made = table[:, 0].copy()
    walk.put(node.outputs[0], [None, made, None, None])


def space_to_depth(node: ir.Node, walk: Walk) -> None:
    """Each channel becomes r x r channels."""
    value, r = read(node), int_attribute(node, "blocksize", 1) or 1
    ids = walk.axis(value, 1)
    walk.pin_axes(value, (0, 2, 3), "SpaceToDepth moves it")
    walk.put(node.outputs[0], [None, None if ids is None else np.tile(ids, r * r), None, None])


def pad(node: ir.Node, walk: Walk) -> None:
    """Axes that get nothing stay as they are."""
    value = read(node)
    rank = len(walk.shape(value))
    pads = node.attributes.get_ints("pads") or node.attributes.get_ints("paddings")
    axes: Sequence[int] = range(rank)
    if pads is None:
        given = array_of(read(node, 1))
        if given is None:
            raise Declined("its padding is computed")
        pads = given.ravel().tolist()
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            chosen = array_of(node.inputs[3])
            if chosen is None:
                raise Declined("its axes are computed")
            axes = [int(a) % rank for a in chosen.ravel()]
    half = len(pads) // 2
    padded = {a for i, a in enumerate(axes) if pads[i] or pads[i + half]}
    walk.pin_axes(value, padded, "Pad adds to it")
    walk.put(node.outputs[0], [None if i in padded else walk.axis(value, i) for i in range(rank)])


def resize(node: ir.Node, walk: Walk) -> None:
    """Axes that keep their size stay; where sizes are given those of cut axes must follow."""
    value = read(node)
    before, after = walk.shape(value), walk.shape(node.outputs[0])
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    walk.pin_axes(value, changed, f"{node.op_type} changes its size")
    axes = [None if i in changed else walk.axis(value, i) for i in range(len(before))]
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        places = [int(a) % len(before) for a in node.attributes.get_ints("axes") or range(len(before))]
        elements = trace(node.inputs[3], walk)
        if elements is None or len(elements) != len(places):
            elements = [None] * len(places)
        entries = _sized({i: axes[p] for i, p in enumerate(places)}, elements, walk)
        if entries:
            walk.adjustments.append(ShapeEntries(node, 3, entries, walk))
    walk.put(node.outputs[0], axes)


def _sized(axes: dict[int, Axis], elements: Sequence[Element], walk: Walk) -> dict[int, Ids]:
    """The entries that must be rewritten: those that are numbers in the file, of axes that may be cut."""
    entries: dict[int, Ids] = {}
    for place, axis in axes.items():
        match elements[place]:
            case Fixed():
                if axis is not None:
                    entries[place] = axis
            case Size(owner, index):
                walk.tie(axis, walk.axis(owner, index), "a shape is made of its size")
            case Product(parts):
                for ids in (axis, *(walk.axis(part.value, part.axis) for part in parts)):
                    walk.channels.pin(ids, "its size is computed")
            case None:
                walk.channels.pin(axis, "its size is computed")
    return entries


def expand(node: ir.Node, walk: Walk) -> None:
    """Axes that are there stay; those that are filled with copies can be cut where their size can be rewritten."""
    value = read(node)
    before, after = walk.shape(value), walk.shape(node.outputs[0])
    elements = trace(read(node, 1), walk)
    gap = len(after) - len(before)
    axes: list[Axis] = []
    checked: dict[int, Axis] = {}
    offset = len(after) - (len(elements) if elements is not None else 0)
    for place, size in enumerate(after):
        old = before[place - gap] if place >= gap else 1
        element = elements[place - offset] if elements is not None and place >= offset else None
        if old != 1:
            axis = walk.axis(value, place - gap)
            if place >= offset and element != Fixed(1):
                checked[place - offset] = axis
        else:
            axis = _copies(element, size, walk)
            if isinstance(element, Fixed) and axis is not None:
                checked[place - offset] = axis
        axes.append(axis)
    if elements is None:
        walk.pin(value, "the shape of Expand is computed")
        axes = [None] * len(after)
    else:
        entries = _sized(checked, elements, walk)
        if entries:
            walk.adjustments.append(ShapeEntries(node, 1, entries, walk))
    walk.put(node.outputs[0], axes)


def _copies(element: Element, size: int, walk: Walk) -> Axis:
    """The ids of an axis that holds ``size`` equal entries."""
    match element:
        case Fixed() if size > 1:
            return walk.copied(size)
        case Size(owner, index):
            return walk.axis(owner, index)
        case _:
            return None


def constant_of_shape(node: ir.Node, walk: Walk) -> None:
    """All entries are equal: any axis can be cut whose size can be rewritten."""
    after = walk.shape(node.outputs[0])
    elements = trace(read(node), walk)
    if elements is None or len(elements) != len(after):
        return
    axes = [_copies(e, n, walk) for e, n in zip(elements, after, strict=True)]
    entries = {
        i: a for i, (a, e) in enumerate(zip(axes, elements, strict=True)) if a is not None and isinstance(e, Fixed)
    }
    if entries:
        walk.adjustments.append(ShapeEntries(node, 0, entries, walk))
    walk.put(node.outputs[0], axes)


def tile(node: ir.Node, walk: Walk) -> None:
    """Repeated axes repeat their ids."""
    value, repeats = read(node), array_of(read(node, 1))
    if repeats is None:
        raise Declined("its repeats are computed")
    axes = walk.axes(value)
    walk.put(node.outputs[0], [None if a is None else np.tile(a, int(n)) for a, n in zip(axes, repeats, strict=True)])


def shape(node: ir.Node, walk: Walk) -> None:
    """Sizes that are used in ways that are not followed keep their axes."""
    value = read(node)
    walk.pin_axes(value, leaks(node, walk), "its size enters a computation")
