"""Where a scale for each channel can move from the weights that make a value to the weights that read it.

A region is a set of values tied by ops that let a positive scale for each channel pass (Relu, pooling, residual Add).
Dividing what writes it and multiplying what reads it by the same scales leaves the model's function as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, label
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import int_attribute, is_op, reason_not_constant, tensor_of
from onnxopt.passes.shapes import DerivedShapes
from onnxopt.quantization.fixes.channels import FIRST, LAST, Layout, is_per_channel, passed
from onnxopt.quantization.select import COMPUTE, compute_reason, flag

__all__ = ["NORMS", "Region", "Use", "find_regions", "weight_reason"]

Use = tuple[ir.Node, int]
"""A node and the index of one of its inputs."""

NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
LARGEST = 1e30
"""Weights beyond this could leave float32 when they are scaled."""


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
        """What messages call it: the node that writes it first, or that reads it."""
        return label((self.writers or self.readers)[0])

    def why_not(self) -> str | None:
        """Why it cannot be scaled as it is; ``None`` when it can."""
        if self.reason is None and self.others:
            node = self.others[0][0]
            return f"a scale for each channel does not pass the {node.op_type} {label(node)!r}"
        return self.reason


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
        self.layouts: dict[ir.Value, Layout] = {}
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
        behind = passed(node, known, self.shapes)
        if behind is not None:
            self.layouts[node.outputs[0]] = behind
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
                    region.reason = region.reason or weight_reason(node)
                else:
                    region.others.append((node, index))
        yield from (r for r in found.values() if r.readers or any(is_op(n, "Clip") for n, _ in r.others))

    def _written(self, node: ir.Node) -> Layout | None:
        if is_op(node, *COMPUTE) and constant(node.inputs[1]) is not None:
            return Layout(_outputs(node), FIRST if node.op_type == "Conv" else LAST)
        if is_op(node, *NORMS) and int_attribute(node, "axis", -1) == -1:
            weight = tensor_of(node.inputs[1])
            return None if weight is None or len(weight.shape) != 1 else Layout(weight.size, LAST)
        if is_op(node, "Mul"):
            index = next((i for i in (0, 1) if tensor_of(node.inputs[i]) is not None), None)
            data = None if index is None else self.shapes.of(node.inputs[1 - index])
            scale = None if index is None else tensor_of(node.inputs[index])
            if scale is not None and data and len(scale.shape) == 1 and data[-1] == scale.size > 1:
                return Layout(scale.size, LAST)
        return None

    def _visit_add(self, node: ir.Node) -> None:
        first, second = node.inputs
        if first is None or second is None:
            return
        for data, other, index in ((first, second, 1), (second, first, 0)):
            layout, tensor = self.layouts.get(data), tensor_of(other)
            if layout is not None and tensor is not None:
                if is_per_channel(tuple(tensor.shape.numpy()), layout, self.shapes.of(data)):
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


def _outputs(node: ir.Node) -> int:
    """Number of output channels; 0 where the weight has no such axis."""
    tensor = constant(node.inputs[1])
    sizes = () if tensor is None else tuple(int(size) for size in tensor.shape.numpy())
    if len(sizes) < 2:
        return 0
    return sizes[0] if node.op_type == "Conv" or flag(node, "transB") else sizes[-1]


def _reads(node: ir.Node, layout: Layout) -> bool:
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


def weight_reason(node: ir.Node) -> str | None:
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
        return weight_reason(node)
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
