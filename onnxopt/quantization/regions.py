"""Where a scale for each channel can move from the weights that make a value to the weights that read it.

A region is a set of values tied by ops that let a positive scale for each channel pass (Relu, pooling, residual Add).
Dividing what writes it and multiplying what reads it by the same scales leaves the model's function as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, label
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import array_of, int_attribute, is_op, reason_not_constant, tensor_of
from onnxopt.passes.shapes import Dims, DerivedShapes
from onnxopt.quantization.select import COMPUTE, compute_reason, flag

__all__ = ["NORMS", "Region", "Use", "find_regions"]

Use = tuple[ir.Node, int]
"""A node and the index of one of its inputs."""

LAST, FIRST = -1, 1
NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
LARGEST = 1e30
"""Weights beyond this could leave float32 when they are scaled."""
PASSING = frozenset(
    {
        *("Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Pad"),
        *("ReduceMean", "ReduceMax", "Flatten", "Reshape"),
    }
)


@dataclass(eq=False)
class Region:
    """Values that share one scale for each channel; mutable only while it is being found.

    Attributes:
        channels: Number of channels.
        values: The values, in graph order.
        writers: Nodes whose weights make the channels: Conv, Gemm, MatMul, LayerNormalization, Mul by a constant.
        shifts: Inputs of inner nodes that hold a constant added to the channels.
        readers: Conv, Gemm and MatMul nodes that read a value of the region as data.
        others: Uses that a scale cannot pass or be folded into.
        reason: Why the region as a whole cannot be scaled.
    """

    channels: int
    values: list[ir.Value] = field(default_factory=list[ir.Value])
    writers: list[ir.Node] = field(default_factory=list[ir.Node])
    shifts: list[Use] = field(default_factory=list[Use])
    readers: list[ir.Node] = field(default_factory=list[ir.Node])
    others: list[Use] = field(default_factory=list[Use])
    reason: str | None = None

    @property
    def name(self) -> str:
        """What messages call it: the node that writes it first."""
        return label(self.writers[0])

    def why_not(self) -> str | None:
        """Why it cannot be scaled as it is; ``None`` when it can."""
        if self.reason is None and self.others:
            node = self.others[0][0]
            return f"a scale for each channel does not pass the {node.op_type} {label(node)!r}"
        return self.reason


@dataclass(frozen=True)
class _Layout:
    """Where the channels of a value are: on the first axis after the batch or on the last one, ``block`` entries each."""

    channels: int
    axis: int
    block: int = 1


def find_regions(model: Model, *, through_adds: bool = True) -> list[Region]:
    """The regions of the main graph that a Conv, Gemm or MatMul with constant weights reads, or a Clip limits.

    Args:
        model: The model; it is not changed.
        through_adds: Whether the two inputs of a residual Add and its output share their scales.
    """
    finder = _Finder(model, through_adds)
    for node in model.graph:
        finder.visit(node)
    return list(finder.regions(model))


class _Finder:
    """Follows channels through the main graph in order; mutable because it collects them."""

    def __init__(self, model: Model, through_adds: bool) -> None:
        self.shapes = DerivedShapes(model)
        self.through_adds = through_adds
        self.layouts: dict[ir.Value, _Layout] = {}
        self.parents: dict[ir.Value, ir.Value] = {}
        self.inner: set[ir.Node] = set()
        self.shifts: dict[ir.Value, list[Use]] = {}

    def visit(self, node: ir.Node) -> None:
        layout = self._written(node)
        if layout is not None:
            self.layouts[node.outputs[0]] = layout
            self.parents[node.outputs[0]] = node.outputs[0]
            return
        if node.domain != "" or not node.inputs or len(node.outputs) != 1:
            return
        if node.op_type == "Add":
            self._visit_add(node)
            return
        data = node.inputs[0]
        known = self.layouts.get(data) if data is not None else None
        if data is None or known is None:
            return
        passed = self._passed(node, data, known)
        if passed is not None:
            self.layouts[node.outputs[0]] = passed
            self._tie(node, data)

    def regions(self, model: Model) -> Iterator[Region]:
        found: dict[ir.Value, Region] = {}
        for value, layout in self.layouts.items():
            region = found.setdefault(self._root(value), Region(layout.channels))
            region.values.append(value)
            region.shifts += self.shifts.get(value, [])
            producer = value.producer()
            if producer is not None and producer not in self.inner:
                region.writers.append(producer)
                region.reason = region.reason or _writer_reason(producer, layout.channels)
            if value.is_graph_output():
                region.reason = region.reason or "the value is an output of the model"
            for node, index in ((use.node, use.idx) for use in value.uses()):
                if node in self.inner and self._root(node.outputs[0]) is self._root(value):
                    continue
                if node.graph is model.graph and index == 0 and _reads(node, layout):
                    region.readers.append(node)
                    region.reason = region.reason or _weight_reason(node)
                else:
                    region.others.append((node, index))
        yield from (r for r in found.values() if r.readers or any(is_op(n, "Clip") for n, _ in r.others))

    def _written(self, node: ir.Node) -> _Layout | None:
        if is_op(node, *COMPUTE) and constant(node.inputs[1]) is not None:
            return _Layout(_outputs(node), FIRST if node.op_type == "Conv" else LAST)
        if is_op(node, *NORMS) and int_attribute(node, "axis", -1) == -1:
            weight = tensor_of(node.inputs[1])
            return None if weight is None or len(weight.shape) != 1 else _Layout(weight.size, LAST)
        if is_op(node, "Mul"):
            index = next((i for i in (0, 1) if tensor_of(node.inputs[i]) is not None), None)
            data = None if index is None else self.shapes.of(node.inputs[1 - index])
            scale = None if index is None else tensor_of(node.inputs[index])
            if scale is not None and data and len(scale.shape) == 1 and data[-1] == scale.size > 1:
                return _Layout(scale.size, LAST)
        return None

    def _visit_add(self, node: ir.Node) -> None:
        first, second = node.inputs
        if first is None or second is None:
            return
        for data, other, index in ((first, second, 1), (second, first, 0)):
            layout, tensor = self.layouts.get(data), tensor_of(other)
            if layout is not None and tensor is not None:
                if _per_channel(tuple(tensor.shape.numpy()), layout, self.shapes.of(data)):
                    self.layouts[node.outputs[0]] = layout
                    self._tie(node, data)
                    self.shifts.setdefault(node.outputs[0], []).append((node, index))
                return
        layout = self.layouts.get(first)
        ranks = [None if dims is None else len(dims) for dims in (self.shapes.of(first), self.shapes.of(second))]
        same = layout is not None and layout == self.layouts.get(second) and ranks[0] is not None
        if self.through_adds and same and ranks[0] == ranks[1] and layout is not None:
            self.layouts[node.outputs[0]] = layout
            self._tie(node, first)
            self.parents[self._root(second)] = self._root(first)

    def _tie(self, node: ir.Node, data: ir.Value) -> None:
        self.inner.add(node)
        self.parents[node.outputs[0]] = self._root(data)

    def _root(self, value: ir.Value) -> ir.Value:
        while self.parents[value] is not value:
            value = self.parents[value]
        return value

    def _passed(self, node: ir.Node, data: ir.Value, layout: _Layout) -> _Layout | None:
        """Where the channels are behind ``node``; ``None`` when a scale does not pass it."""
        if node.op_type not in PASSING or any(a.is_ref() for a in node.attributes.values()):
            return None
        dims = self.shapes.of(data)
        match node.op_type:
            case "Relu" | "LeakyRelu" | "Identity":
                return layout
            case "Flatten" | "Reshape":
                return self._reshaped(node, dims, layout)
            case "ReduceMean" | "ReduceMax":
                return _reduced(node, dims, layout)
            case "Pad":
                return layout if layout.axis == FIRST and _pads_zero(node) else None
            case _:
                return layout if layout.axis == FIRST else None

    def _reshaped(self, node: ir.Node, dims: Dims | None, layout: _Layout) -> _Layout | None:
        after = self.shapes.of(node.outputs[0])
        if not after or after[-1] is None or dims is None:
            return None
        if layout.axis == LAST:
            return layout if after[-1] == layout.channels * layout.block else None
        inner = dims[2:]
        size = math.prod(d for d in inner if d is not None)
        if len(after) == 2 and None not in inner and after[1] == layout.channels * size:
            return _Layout(layout.channels, LAST, size)
        return None


def _outputs(node: ir.Node) -> int:
    """Number of output channels; 0 where the weight has no such axis."""
    tensor = constant(node.inputs[1])
    sizes = () if tensor is None else tuple(int(size) for size in tensor.shape.numpy())
    if len(sizes) < 2:
        return 0
    return sizes[0] if node.op_type == "Conv" or flag(node, "transB") else sizes[-1]


def _reads(node: ir.Node, layout: _Layout) -> bool:
    """Whether ``node`` is a linear operator that contracts the channels of ``layout``."""
    tensor = constant(node.inputs[1]) if is_op(node, *COMPUTE) else None
    if tensor is None or any(a.is_ref() for a in node.attributes.values()):
        return False
    sizes = tuple(int(size) for size in tensor.shape.numpy())
    if node.op_type == "Conv":
        groups = int_attribute(node, "group", 1) or 1
        return layout.axis == FIRST and len(sizes) > 2 and sizes[1] * groups == layout.channels
    wanted = layout.channels * layout.block
    if len(sizes) != 2 or layout.axis != LAST or flag(node, "transA"):
        return False
    return sizes[1 if flag(node, "transB") else 0] == wanted


def _weight_reason(node: ir.Node) -> str | None:
    """Why the weights of a Conv, Gemm or MatMul cannot be scaled."""
    reason, weight = compute_reason(node), node.inputs[1]
    if reason is None and weight is not None:
        if len(weight.uses()) > 1:
            reason = "its weight is shared, a second copy would make the model larger"
        elif weight.is_graph_output():
            reason = "its weight is an output of the model"
        elif (tensor := constant(weight)) is not None:
            with borrow(tensor) as array:
                reason = None if np.abs(array).max(initial=0) < LARGEST else f"its weight exceeds {LARGEST:g}"
    return None if reason is None else f"{label(node)}: {reason}"


def _writer_reason(node: ir.Node, channels: int) -> str | None:
    """Why the constants that make the channels cannot be scaled."""
    if node.op_type in COMPUTE:
        return _weight_reason(node)
    for value in node.inputs[1:] if node.op_type in NORMS else node.inputs:
        tensor = tensor_of(value)
        if tensor is None and node.op_type in NORMS and value is not None:
            return f"{label(node)}: its constant {reason_not_constant(value)}"
        if tensor is None:
            continue
        if tensor.dtype != ir.DataType.FLOAT or tensor.size != channels:
            return f"{label(node)}: its constant is not one float32 value a channel"
        with borrow(tensor) as array:
            if not (np.abs(array) < LARGEST).all():
                return f"{label(node)}: its constant holds NaN, infinity or values above {LARGEST:g}"
    return None


def _per_channel(shape: tuple[int, ...], layout: _Layout, dims: Dims | None) -> bool:
    """Whether a constant of ``shape`` holds one value a channel and widens nothing."""
    if dims is None or len(shape) > len(dims) or layout.block != 1:
        return False
    full = (1,) * (len(dims) - len(shape)) + tuple(int(size) for size in shape)
    axis = layout.axis % len(dims)
    return full[axis] == layout.channels and all(size == 1 for i, size in enumerate(full) if i != axis)


def _reduced(node: ir.Node, dims: Dims | None, layout: _Layout) -> _Layout | None:
    """Behind a reduction over all positions of images."""
    if dims is None or layout.axis != FIRST or int_attribute(node, "noop_with_empty_axes", 0):
        return None
    axes: list[int] = [int(a) for a in node.attributes["axes"].as_ints()] if "axes" in node.attributes else []
    if len(node.inputs) > 1 and (array := array_of(node.inputs[1])) is not None:
        axes = [int(a) for a in array]
    if sorted(a % len(dims) for a in axes) != list(range(2, len(dims))):
        return None
    return layout if int_attribute(node, "keepdims", 1) else _Layout(layout.channels, LAST)


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
