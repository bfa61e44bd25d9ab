"""Static INT8: Q/DQ pairs around the nodes that the runtime turns into integer kernels, ranges from calibration data.

Source: ONNX QuantizeLinear / DequantizeLinear (opset 13 for one scale per channel); bias int32 with scale
``activation scale * weight scale`` as in Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.core.tensors import borrow, read
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError
from onnxopt.passes.base import Context, PassResult
from onnxopt.quantization.affine import WeightRange, qparams, quantize_array, weight_scale
from onnxopt.quantization.bias import can_correct, correct_bias
from onnxopt.quantization.calibrate import statistics
from onnxopt.quantization.calibrators import Calibrator, choose_range, needs_histogram
from onnxopt.quantization.observers import Statistics
from onnxopt.quantization.rounding import Rounding, round_weights
from onnxopt.quantization.scheme import CPU_X86, PerAxis, QuantScheme
from onnxopt.quantization.select import ACTIVATIONS, Placement, excluded, place, quantizable, stems, weight_axis

__all__ = ["StaticQuantize"]

Array: TypeAlias = np.ndarray[Any, Any]
GridPoint: TypeAlias = tuple[np.float32, int]
"""Scale and zero point of one value."""

OPSET = 13
"""The first opset in which DequantizeLinear has an axis."""
KEPT = "integers take longer here, or cost more accuracy than they gain"
SMALLEST_PRODUCT = 1e-30
"""Lower bound on activation scale * weight scale, well above what float32 flushes to zero."""
BIAS_LIMIT = 2**30
"""Codes of a bias stay below this, half of what int32 holds, so that the accumulator has room for the products."""


@dataclass(frozen=True)
class StaticQuantize:
    """Quantizes weights and activations of Conv, Gemm, MatMul and residual Add nodes to INT8.

    Attributes:
        exclude: Shell-style patterns of node names, or op types, that stay float.
        keep_float: Labels of nodes that stay float: integers take longer there (``gains``) or cost accuracy
            (``restore``).
        float_stem: Keep the first Conv float where it reads few channels (``select.stems``).
        calibrator: How the ranges of activations follow from the data.
        weight_range: Where the grids of the weights end (``affine.weight_scale``).
        rounding: Whether weights get the nearest codes, or those that serve the output of the layer (``rounding``).
        correct_bias: Take the mean error of the integer weights out of the biases (one more pass over the data).
        scheme: The integer grids.
    """

    name: ClassVar[str] = "quantize-static"
    lossy: ClassVar[bool] = True

    exclude: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    float_stem: bool = False
    calibrator: Calibrator = "mse"
    weight_range: WeightRange = "minmax"
    rounding: Rounding = "nearest"
    correct_bias: bool = False
    scheme: QuantScheme = CPU_X86

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Inserts the pairs; ``changes`` counts the nodes that run on integers.

        Raises:
            DataError: There are no data to calibrate on.
            UsageError: An exclusion pattern matches no node.
        """
        if ctx.data is None:
            raise DataError(
                "static quantization needs data to calibrate on", where="quantize", fix="give --data, or --mode dynamic"
            )
        excluded(nodes(model), self.exclude)
        model = raise_opset(model, OPSET)
        skip = self._skipped(model)
        placement, found = _placed(model, skip, self.calibrator, ctx.data, ctx)
        if not placement.nodes:
            return PassResult(model, 0, placement.notes)
        grids = {value: self._grid(found[source.name or ""]) for value, source in placement.grid_of.items()}
        weights = dict(_weights(placement)) if self.correct_bias or self.rounding != "nearest" else {}
        source = model.clone() if self.rounding != "nearest" else model
        reads = {n: v.name or "" for n in placement.nodes if (v := n.inputs[0]) is not None}
        writer = _Writer(model, self.scheme, self.weight_range)
        for node in placement.nodes:
            writer.quantize_constants(node, grids)
        for value in placement.consumed:
            writer.quantize_for(value, placement.nodes, grids[value])
        for value in placement.produced:
            writer.quantize_at_source(value, grids[value])
        notes = list(placement.notes)
        if self.rounding == "adaround":
            centered = frozenset(filter(can_correct, weights) if self.correct_bias else ())
            notes += round_weights(model, weights, source, reads, self.scheme.weights, ctx, centered=centered)
        if self.correct_bias:
            notes += correct_bias(model, weights, ctx.data, ctx)
        return PassResult(model, len(placement.nodes), tuple(notes))

    def planned(self, model: Model) -> tuple[str, ...]:
        """Labels of the nodes that would run on integers if their values are finite, in graph order."""
        model = raise_opset(model.clone(), OPSET)
        return tuple(label(node) for node in place(model, self._skipped(model)).nodes)

    def _skipped(self, model: Model) -> dict[ir.Node, str]:
        skip = dict.fromkeys(excluded(nodes(model), self.exclude, strict=False), "excluded")
        kept = frozenset(self.keep_float)
        skip |= {n: KEPT for n in nodes(model) if n not in skip and label(n) in kept}
        if self.float_stem:
            skip |= dict.fromkeys(stems(model), "the integer kernel gains nothing on the first layers")
        return skip

    def _grid(self, found: Statistics) -> GridPoint:
        return qparams(*choose_range(found, self.calibrator, self.scheme.activations), self.scheme.activations)


def _weights(placement: Placement) -> Iterator[tuple[ir.Node, Array]]:
    for node in placement.nodes:
        tensor = constant(node.inputs[1])
        if tensor is not None:
            yield node, read(tensor)


def _placed(
    model: Model, skip: Mapping[ir.Node, str], calibrator: Calibrator, data: Dataset, ctx: Context
) -> tuple[Placement, Mapping[str, Statistics]]:
    """The placement whose values are all finite on ``data``, and their statistics; nodes at other values stay float."""
    if not place(model, skip).nodes:
        return place(model, skip), {}
    skip = dict(skip)
    found = statistics(model, quantizable(model), data, ctx, histograms=needs_histogram(calibrator))
    while True:
        placement = place(model, skip)
        bad = [v for v, source in placement.grid_of.items() if not found[source.name or ""].range.finite]
        if not bad:
            return placement, found
        for value in bad:
            skip |= dict.fromkeys(_touching(value), "it reads or makes NaN or infinite values on the calibration data")


def _touching(value: ir.Value) -> Iterator[ir.Node]:
    """The readers of ``value``, the node that makes it, and the one behind an activation in between."""
    yield from value.consumers()
    producer = value.producer()
    if producer is None:
        return
    yield producer
    source = producer.inputs[0] if producer.op_type in ACTIVATIONS else None
    if source is not None and (behind := source.producer()) is not None:
        yield behind


class _Writer:
    """Writes Q/DQ pairs into one model; remembers the weights already written, so that shared ones stay shared."""

    def __init__(self, model: Model, scheme: QuantScheme, weight_range: WeightRange) -> None:
        self.graph = model.graph
        self.scheme = scheme
        self.weight_range: WeightRange = weight_range
        self.edit = Editor(model)
        self.weights: dict[tuple[ir.Value, int], tuple[ir.Value, Array]] = {}

    def quantize_constants(self, node: ir.Node, grids: dict[ir.Value, GridPoint]) -> None:
        """Replaces the weight by DQ(int8) and the bias by DQ(int32)."""
        data, weight = node.inputs[0], node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if data is None or weight is None:
            raise ValueError(f"{node.name!r} has no data or weight")
        data_scale = float(grids[data][0])
        values = None if (tensor := constant(bias)) is None else np.asarray(read(tensor), np.float64).reshape(-1)
        dequantized, scale = self._weight(node, weight, data_scale, values)
        node.replace_input_with(1, dequantized)
        if bias is not None and values is not None:
            bias_scale = (scale.astype(np.float64) * data_scale).astype(np.float32)
            codes = np.rint(values / bias_scale).astype(np.int32)
            node.replace_input_with(2, self._dequantize_constant(bias, codes, bias_scale, 0, before=node))
        clear_unused([weight, bias])

    def quantize_for(self, value: ir.Value, readers: tuple[ir.Node, ...], grid: GridPoint) -> None:
        """Lets the integer ``readers`` of a float ``value`` read a quantized form of it."""
        wanted = [n for n in value.consumers() if n in readers and n.inputs[0] is value]
        dequantized = self._pair(value, grid)
        for node in wanted:
            node.replace_input_with(0, dequantized)

    def quantize_at_source(self, value: ir.Value, grid: GridPoint) -> None:
        """Lets all readers of ``value`` read its dequantized form; a graph output keeps its name."""
        uses = [(use.node, use.idx) for use in value.uses()]
        outputs = [i for i, output in enumerate(self.graph.outputs) if output is value]
        dequantized = self._pair(value, grid)
        for node, index in uses:
            node.replace_input_with(index, dequantized)
        if outputs:
            name = value.name
            value.name = self.edit.fresh_name(f"{name}_float")
            for index in outputs:
                self.graph.outputs[index] = dequantized
            dequantized.name = name

    def _weight(self, node: ir.Node, weight: ir.Value, data_scale: float, bias: Array | None) -> tuple[ir.Value, Array]:
        tensor = constant(weight)
        if tensor is None:
            raise ValueError(f"{weight.name!r} is not constant")
        axis = weight_axis(node)
        with borrow(tensor) as array:
            scale = weight_scale(array, PerAxis(axis), self.scheme.weights, self.weight_range)
            # A channel of zeros may have any scale; a bias must fit int32 at `data_scale * scale`.
            needed = np.full(scale.shape, SMALLEST_PRODUCT / data_scale)
            if bias is not None:
                needed = np.maximum(needed, np.abs(bias) / (data_scale * BIAS_LIMIT))
            scale = np.maximum(scale, needed.astype(np.float32))
            known = self.weights.get((weight, axis))
            if known is not None and np.array_equal(known[1], scale):
                return known
            codes = quantize_array(array, scale, 0, PerAxis(axis), self.scheme.weights)
        written = self._dequantize_constant(weight, codes, scale, axis, before=node), scale
        self.weights[weight, axis] = written
        return written

    def _dequantize_constant(
        self, source: ir.Value, codes: Array, scale: Array, axis: int, *, before: ir.Node
    ) -> ir.Value:
        name = source.name or "weight"
        inputs = [
            self.edit.add_constant(f"{name}_quantized", codes, before=before),
            self.edit.add_constant(f"{name}_scale", scale, before=before),
            self.edit.add_constant(f"{name}_zero_point", np.zeros(scale.shape, codes.dtype), before=before),
        ]
        return self.edit.insert(
            "DequantizeLinear",
            inputs,
            before=self.graph[0],
            base=f"{name}_dequantized",
            attributes=[ir.AttrInt64("axis", axis)],
        )

    def _pair(self, value: ir.Value, grid: GridPoint) -> ir.Value:
        """DQ(Q(value)), placed right after the node that makes ``value``."""
        scale, zero_point = grid
        source, producer = value, value.producer()
        first = self.graph[0]
        name = value.name or "value"
        parameters = [
            self.edit.add_constant(f"{name}_scale", np.asarray(scale), before=first),
            self.edit.add_constant(
                f"{name}_zero_point", np.asarray(zero_point, self.scheme.activations.dtype), before=first
            ),
        ]
        pair: list[ir.Node] = []
        for op_type, base in (("QuantizeLinear", "quantized"), ("DequantizeLinear", "dequantized")):
            node = ir.node(op_type, [value, *parameters], name=self.edit.fresh_name(f"{name}_{op_type}"))
            value = node.outputs[0]
            value.name = self.edit.fresh_name(f"{name}_{base}")
            pair.append(node)
        if producer is None:
            self.graph.insert_before(first, pair)
        else:
            self.graph.insert_after(producer, pair)
        value.type, value.shape = source.type, source.shape
        return value
