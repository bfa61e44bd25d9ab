"""Where the channels of a value are, and where they are behind an op that a positive scale for each channel passes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import array_of, int_attribute
from onnxopt.passes.shapes import DerivedShapes, Dims

__all__ = ["FIRST", "LAST", "Layout", "is_per_channel", "passed"]

FIRST, LAST = 1, -1
PASSING = frozenset(
    {
        *("Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Pad"),
        *("ReduceMean", "ReduceMax", "Flatten", "Reshape"),
    }
)


@dataclass(frozen=True)
class Layout:
    """The axis of the channels.

    Attributes:
        channels: Number of channels.
        axis: The first one after the batch, or the last one.
        block: Entries of that axis that belong to one channel (behind a Flatten).
    """

    channels: int
    axis: int
    block: int = 1


def passed(node: ir.Node, layout: Layout, shapes: DerivedShapes) -> Layout | None:
    """Where the channels are behind ``node``; ``None`` when a scale does not pass it."""
    if node.op_type not in PASSING or any(a.is_ref() for a in node.attributes.values()):
        return None
    dims = shapes.of(node.inputs[0])
    match node.op_type:
        case "Relu" | "LeakyRelu" | "Identity":
            return layout
        case "Flatten" | "Reshape":
            return _reshaped(shapes.of(node.outputs[0]), dims, layout)
        case "ReduceMean" | "ReduceMax":
            return _reduced(node, dims, layout)
        case "Pad":
            return layout if layout.axis == FIRST and _pads_zero(node) else None
        case _:
            return layout if layout.axis == FIRST else None


def _reshaped(after: Dims | None, dims: Dims | None, layout: Layout) -> Layout | None:
    if not after or after[-1] is None or dims is None:
        return None
    if layout.axis == LAST:
        return layout if after[-1] == layout.channels * layout.block else None
    inner = dims[2:]
    size = math.prod(d for d in inner if d is not None)
    if len(after) == 2 and None not in inner and after[1] == layout.channels * size:
        return Layout(layout.channels, LAST, size)
    return None


def is_per_channel(shape: tuple[int, ...], layout: Layout, dims: Dims | None) -> bool:
    """Whether a constant of ``shape`` holds one value a channel and widens nothing."""
    if dims is None or len(shape) > len(dims) or layout.block != 1:
        return False
    full = (1,) * (len(dims) - len(shape)) + tuple(int(size) for size in shape)
    axis = layout.axis % len(dims)
    return full[axis] == layout.channels and all(size == 1 for i, size in enumerate(full) if i != axis)


def _reduced(node: ir.Node, dims: Dims | None, layout: Layout) -> Layout | None:
    """Behind a reduction over all positions of images."""
    if dims is None or layout.axis != FIRST or int_attribute(node, "noop_with_empty_axes", 0):
        return None
    axes: list[int] = [int(a) for a in node.attributes["axes"].as_ints()] if "axes" in node.attributes else []
    if len(node.inputs) > 1 and (array := array_of(node.inputs[1])) is not None:
        axes = [int(a) for a in array]
    if sorted(a % len(dims) for a in axes) != list(range(2, len(dims))):
        return None
    return layout if int_attribute(node, "keepdims", 1) else Layout(layout.channels, LAST)


def _pads_zero(node: ir.Node) -> bool:
    """Whether Pad adds zeros, or copies of what is there, and none of them to batch or channels."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    value = array_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    filled = "value" in node.attributes and node.attributes["value"].as_float() != 0
    if mode == "constant" and (filled or value is None or np.any(value != 0)):
        return False
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return False
    pads = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if pads is None:
        pads = np.array(node.attributes["pads"].as_ints()) if "pads" in node.attributes else None
    if pads is None or len(pads) % 2 or len(pads) < 4:
        return False
    half = len(pads) // 2
    return not (pads[:2].any() or pads[half : half + 2].any())
