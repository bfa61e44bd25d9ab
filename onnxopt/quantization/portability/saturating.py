"""Writes the saturating form of one integer layer in ONNX: exact product, what saturation adds, rescaling.

What saturation adds to channel n is ``sum over its pairs at risk of clip(p) - p`` with ``p = x0 w0 + x1 w1``. The
columns of the activations that these pairs read are gathered, and channels with about as many pairs go together.
Rescaling repeats MLAS: ``clip(round(float(sum + bias) * (data scale * weight scale / output scale)) + zero point)``,
in float32, halves to even.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of, remove_node
from onnxopt.core.tensors import Array
from onnxopt.quantization.portability.layers import Layer
from onnxopt.quantization.portability.pairs import HIGHEST, LOWEST

__all__ = ["Figures", "Rewriter"]

BLOCK = 4 << 20
"""Products that are held at once, by estimate, in numbers of 4 bytes."""
LAST = np.iinfo(np.int64).max
INTEGER_SUMS = frozenset({"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
"""Operators that give their sums, or these rescaled with a scale that may be known only at run time."""


@dataclass(frozen=True, eq=False)
class Figures:
    """Scalars of the saturating form of a layer, of one call.

    Attributes:
        saturated: Number of pairs that saturate, int64.
        sums: Number of sums, int64.
        signal: Sum of the squares of the exact results, float32.
        noise: Sum of the squares of what saturation changes in them, float32.
    """

    saturated: ir.Value
    sums: ir.Value
    signal: ir.Value
    noise: ir.Value


class Rewriter:
    """Replaces layers of one model by their saturating form."""

    def __init__(self, edit: Editor) -> None:
        self.edit = edit

    def replace(self, layer: Layer, positions: int, *, figures: bool = False) -> Figures | None:
        """Puts the saturating form in the place of ``layer``.

        Args:
            layer: The layer, with pairs at risk.
            positions: Rows of its product in one call, by estimate.
            figures: Whether the model is to tell what saturation does; the figures are returned then.
        """
        node = layer.node
        place = _Place(self.edit, node)
        data, zero, scale = layer.given("data"), layer.given("data_zero"), layer.given("data_scale")
        if node.op_type == "DynamicQuantizeMatMul":
            data, scale, zero = place.all("DynamicQuantizeLinear", [data], 3)
        exact = _exact(place, layer, data, zero)
        added, lost = _added(place, layer, _columns(place, layer, data), max(1, BLOCK // max(positions, 1)))
        if not layer.is_conv:
            added = place.one("Transpose", [added], {"perm": [2, 1, 0]})
        added = place.one("Reshape", [added, place.one("Shape", [exact])])
        sums = place.one("Add", [exact, added])
        real = _real(place, layer, sums, scale)
        result = sums if node.op_type == "MatMulInteger" else _finished(place, layer, real)
        found = _figures(place, lost, exact, _real(place, layer, exact, scale), real) if figures else None
        result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        self.edit.replace_value(node.outputs[0], result)
        remove_node(node)
        return found


class _Place:
    """Adds nodes in front of one node of the model."""

    def __init__(self, edit: Editor, node: ir.Node) -> None:
        self.edit, self.node = edit, node
        self.base = f"{node.outputs[0].name}_saturating"

    def constant(self, name: str, data: Array) -> ir.Value:
        return self.edit.add_constant(f"{self.base}_{name}", data, before=self.node)

    def one(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
    ) -> ir.Value:
        return self.all(op_type, inputs, 1, attributes)[0]

    def all(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> Sequence[ir.Value]:
        name = self.edit.fresh_name(f"{self.base}_{op_type}")
        added = ir.node(op_type, inputs, dict(attributes or {}), num_outputs=outputs, name=name)
        for output in added.outputs:
            output.name = self.edit.fresh_name(f"{name}_output")
        graph_of(self.node).insert_before(self.node, added)
        return added.outputs


def _exact(place: _Place, layer: Layer, data: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    """The sums without saturation, on every CPU."""
    stored = layer.number("weight_zero")
    zeros = np.zeros((), np.int8) if stored is None else stored
    if layer.is_conv:
        kept = ("dilations", "group", "kernel_shape", "pads", "strides")
        attributes = {name: a for name, a in layer.node.attributes.items() if name in kept}
        weight_zero = place.constant("zero", zeros.reshape(-1)[0])
        return place.one("ConvInteger", [data, layer.given("weight"), zero, weight_zero], attributes)
    codes = layer.codes if layer.weight_axis == 1 else layer.codes.T
    unsigned = place.constant("unsigned", (codes.astype(np.int16) + 128).astype(np.uint8))
    weight_zero = place.constant("zero", (zeros.astype(np.int16) + 128).astype(np.uint8))
    return place.one("MatMulInteger", [data, unsigned, zero, weight_zero])


def _columns(place: _Place, layer: Layer, data: ir.Value | None) -> ir.Value:
    """What the weights are multiplied with, (batch, columns, positions) uint8; of a Conv: kernel position, channel."""
    if not layer.is_conv:
        size = place.constant("size", np.array([-1, layer.codes.size // layer.channels, 1]))
        return place.one("Transpose", [place.one("Reshape", [data, size])], {"perm": [2, 1, 0]})
    kernel = layer.codes.shape[2:]
    dims = len(kernel)
    pads, strides, dilations = (
        [int(x) for x in layer.node.attributes[name].as_ints()] if name in layer.node.attributes else [default] * count
        for name, default, count in (("pads", 0, 2 * dims), ("strides", 1, dims), ("dilations", 1, dims))
    )
    if any(pads):
        widths = np.array([0, 0, *pads[:dims], 0, 0, *pads[dims:]])
        data = place.one("Pad", [data, place.constant("pads", widths), layer.given("data_zero")])
    axes = place.constant("axes", np.arange(2, 2 + dims))
    steps = place.constant("steps", np.array(strides))
    size = place.constant("size", np.array([0, layer.codes.shape[1] * layer.groups, -1]))
    views: list[ir.Value] = []
    for offset in product(*(range(k) for k in kernel)):
        first = [d * i for d, i in zip(dilations, offset, strict=True)]
        behind = [d * (k - 1 - i) for d, k, i in zip(dilations, kernel, offset, strict=True)]
        ends = place.constant("ends", np.array([-b if b else LAST for b in behind]))
        view = place.one("Slice", [data, place.constant("starts", np.array(first)), ends, axes, steps])
        views.append(place.one("Reshape", [view, size]))
    return views[0] if len(views) == 1 else place.one("Concat", views, {"axis": 1})


def _added(place: _Place, layer: Layer, columns: ir.Value, most: int) -> tuple[ir.Value, list[ir.Value]]:
    """What saturation adds, (batch, channels, positions) int32, and the same for each pair, in blocks of ``most``."""
    sums: list[ir.Value] = []
    losses: list[ir.Value] = []
    place_of = np.full(layer.channels, -1)
    listed = 0
    limits = [place.constant("limit", np.array(x, np.int32)) for x in (LOWEST, HIGHEST)]
    for channels, columns_of, weights in _blocks(layer, most):
        products = [
            place.one("Mul", [_gathered(place, columns, where), place.constant("weights", w.reshape(1, -1, 1))])
            for where, w in zip(columns_of, weights, strict=True)
        ]
        pair = place.one("Add", products)
        lost = place.one("Sub", [place.one("Clip", [pair, *limits]), pair])
        size = place.constant("size", np.array([0, len(channels), columns_of.shape[-1], -1]))
        split = place.one("Reshape", [lost, size])
        sums.append(place.one("ReduceSum", [split, place.constant("axis", np.array([2]))], {"keepdims": 0}))
        losses.append(lost)
        place_of[channels] = np.arange(listed, listed + len(channels))
        listed += len(channels)
    # One more row, of zeros, for the channels without a pair at risk.
    more = place.constant("pads", np.array([0, 0, 0, 0, 1, 0]))
    padded = place.one("Pad", [place.one("Concat", sums, {"axis": 1}), more])
    order = place.constant("order", np.where(place_of < 0, listed, place_of))
    return place.one("Gather", [padded, order], {"axis": 1}), losses


def _gathered(place: _Place, columns: ir.Value, where: Array) -> ir.Value:
    codes = place.one("Gather", [columns, place.constant("columns", where.reshape(-1))], {"axis": 1})
    return place.one("Cast", [codes], {"to": ir.DataType.INT32.value})


def _blocks(layer: Layer, most: int) -> Iterator[tuple[Array, Array, Array]]:
    """The pairs at risk in blocks of about ``most`` pairs; channels with fewer are filled up with weights of 0.

    Yields:
        Output channels, (n,); columns that their pairs read, (2, n, pairs); weights, (2, n, pairs) int32.
    """
    pairs = layer.pairs
    counts = np.bincount(pairs.channel, minlength=layer.channels)
    starts = np.concatenate([[0], np.cumsum(counts)])
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    while len(order):
        width = int(counts[order[0]])
        fitting = order[: max(1, most // width)]
        channels = fitting[2 * counts[fitting] >= width]
        columns, weights = np.zeros((2, len(channels), width), np.int64), np.zeros((2, len(channels), width), np.int32)
        for i, channel in enumerate(channels):
            these = slice(starts[channel], starts[channel + 1])
            for half in (0, 1):
                columns[half, i, : counts[channel]] = _column(layer, pairs.first[these] + half, int(channel))
            weights[:, i, : counts[channel]] = pairs.weights[:, these]
        yield channels, columns, weights
        order = order[len(channels) :]


def _column(layer: Layer, rows: Array, channel: int) -> Array:
    """Where the rows of the weight, for one output channel, are among the columns of ``_columns``."""
    if not layer.is_conv:
        return rows
    inputs = layer.codes.shape[1]
    group = channel // (layer.channels // layer.groups)
    position, within = np.divmod(rows, inputs)
    return position * inputs * layer.groups + group * inputs + within


def _real(place: _Place, layer: Layer, sums: ir.Value, data_scale: ir.Value | None) -> ir.Value:
    """The sums in float32 as the kernel rescales them; an integer bias is added first."""
    if layer.node.op_type in INTEGER_SUMS:
        real = place.one("Cast", [sums], {"to": ir.DataType.FLOAT.value})
        if layer.node.op_type == "MatMulInteger":
            return real
        return place.one("Mul", [real, place.one("Mul", [data_scale, layer.given("weight_scale")])])
    column = (1, -1, *(1,) * (layer.codes.ndim - 2))
    bias = layer.number("bias")
    if bias is not None:
        sums = place.one("Add", [sums, place.constant("bias", bias.reshape(column) if layer.is_conv else bias)])
    scale = _scale(layer)
    if scale.size == 1:
        scale = scale.reshape(())
    factor = place.constant("scale", scale.reshape(column) if layer.is_conv and scale.size > 1 else scale)
    return place.one("Mul", [place.one("Cast", [sums], {"to": ir.DataType.FLOAT.value}), factor])


def _finished(place: _Place, layer: Layer, real: ir.Value) -> ir.Value:
    """The output of the layer: ``real`` with its bias, or rounded to codes."""
    if layer.node.op_type in INTEGER_SUMS:
        bias = layer.given("bias")
        return real if bias is None else place.one("Add", [real, bias])
    zero = layer.number("output_zero")
    if layer.number("output_scale") is None or zero is None:
        return real
    limits, offset = np.iinfo(zero.dtype), np.asarray(zero, np.float32).reshape(())
    low, high = (place.constant("bound", np.asarray(x - offset, np.float32)) for x in (limits.min, limits.max))
    rounded = place.one("Round", [place.one("Clip", [real, low, high])])
    shifted = place.one("Add", [rounded, place.constant("offset", offset)])
    return place.one("Cast", [shifted], {"to": ir.DataType.from_numpy(zero.dtype).value})


def _figures(place: _Place, lost: Sequence[ir.Value], exact: ir.Value, real: ir.Value, changed: ir.Value) -> Figures:
    """What saturation does: ``lost`` of each pair, ``changed`` in place of ``real``."""
    counts: list[ir.Value] = []
    for part in lost:
        seen = place.one("ReduceSum", [place.one("Abs", [place.one("Sign", [part])])], {"keepdims": 0})
        counts.append(place.one("Cast", [seen], {"to": ir.DataType.INT64.value}))
    saturated = reduce(lambda a, b: place.one("Add", [a, b]), counts)
    difference = place.one("Sub", [changed, real])
    squares = [place.one("ReduceSumSquare", [value], {"keepdims": 0}) for value in (real, difference)]
    found = Figures(saturated, place.one("Size", [exact]), *squares)
    for value in (found.saturated, found.sums, found.signal, found.noise):
        kind = ir.DataType.INT64 if value in (found.saturated, found.sums) else ir.DataType.FLOAT
        value.type, value.shape = ir.TensorType(kind), ir.Shape([])
    return found


def _scale(layer: Layer) -> Array:
    """What the sums are multiplied by, float32, in the order of operations of ONNX Runtime."""
    data, weight, output = (layer.number(f"{x}_scale") for x in ("data", "weight", "output"))
    if data is None or weight is None:
        raise ValueError(f"{layer.weight!r} has no constant scales")
    alpha = layer.node.attributes["alpha"].as_float() if "alpha" in layer.node.attributes else 1.0
    scale = np.float32(alpha) * data.reshape(-1)[:1].astype(np.float32) * weight.reshape(-1).astype(np.float32)
    return scale if output is None else scale / output.reshape(-1)[:1].astype(np.float32)
