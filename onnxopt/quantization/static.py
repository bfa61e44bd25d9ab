"""Static INT8: Q/DQ pairs around the nodes that the runtime turns into integer kernels, ranges from calibration data.

Source: ONNX QuantizeLinear / DequantizeLinear (opset 13 for one scale per channel); bias int32 with scale
``activation scale * weight scale`` as in Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 2.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import make_names_unique
from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import read
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, OnnxoptError
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.rewrite.inline import InlineFunctions
from onnxopt.passes.rewrite.linear import MatMulAddToGemm
from onnxopt.quantization.affine import WeightRange, qparams
from onnxopt.quantization.barrier import protect_float, unprotect
from onnxopt.quantization.existing import existing_grid, leaves_on_grid
from onnxopt.quantization.fixes.bias import can_correct, correct_bias
from onnxopt.quantization.fixes.rounding import Rounding, round_weights
from onnxopt.quantization.patterns import excluded, left_float
from onnxopt.quantization.qdq import GridPoint, PairWriter
from onnxopt.quantization.ranges.calibrators import Calibrator, choose_range, needs_histogram
from onnxopt.quantization.ranges.collect import statistics
from onnxopt.quantization.ranges.observers import Statistics
from onnxopt.quantization.scheme import CPU_X86, QuantScheme
from onnxopt.quantization.select import ACTIVATIONS, COMPUTE, Placement, place, quantizable, stems

__all__ = ["StaticQuantize"]

Array: TypeAlias = np.ndarray[Any, Any]

OPSET = 13
"""The first opset in which DequantizeLinear has an axis."""


@dataclass(frozen=True)
class StaticQuantize:
    """Quantizes weights and activations of Conv, Gemm, MatMul and residual Add nodes to INT8, in bodies too.

    Local functions that hold such nodes are put into the graph first: their ranges differ from call to call.

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
        narrow: Names of weights that get a grid on which no pair of them saturates without VNNI.
        unsigned: Names of weights that are stored as U8, whose products never saturate.
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
    narrow: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()

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
        given = model
        model, skip, inlining = self._prepared(model)
        every = replace(self, exclude=(), keep_float=(), float_stem=False)
        whole = every._prepared(given)[0] if skip else model.clone()
        placement, found = _placed(model, whole, skip, self, ctx.data, ctx)
        if not placement.nodes:
            return PassResult(given, 0, (*inlining, *placement.notes))
        dtype = self.scheme.activations.dtype
        kept = {value: grid for value in placement.consumed if (grid := existing_grid(value, dtype)) is not None}
        grids = {
            value: kept.get(value) or self._grid(found[source.name or ""])
            for value, source in placement.grid_of.items()
        }
        weights = dict(_weights(placement)) if self.correct_bias or self.rounding != "nearest" else {}
        named = {label(node): node for node in nodes(whole)}
        origins = {node: named[label(node)] for node in weights}
        writer = PairWriter(model, self.scheme, self.weight_range, self.narrow, self.unsigned)
        for node in placement.nodes:
            writer.quantize_constants(node, grids)
        for value in placement.consumed:
            if value not in kept:
                writer.quantize_for(value, placement.nodes, grids[value])
        for value in placement.produced:
            if not leaves_on_grid(value, dtype):
                writer.quantize_at_source(value, grids[value])
        protect_float(model)
        notes = [*inlining, *placement.notes]
        if self.rounding == "adaround":
            here = {n: w for n, w in weights.items() if n.graph is model.graph}
            centered = frozenset(filter(can_correct, here) if self.correct_bias else ())
            notes += round_weights(model, here, whole, origins, self.scheme.weights, ctx, centered=centered)
        if self.correct_bias:
            notes += correct_bias(model, weights, whole, origins, ctx)
        return PassResult(model, len(placement.nodes), tuple(notes))

    def planned(self, model: Model) -> tuple[str, ...]:
        """Labels of the nodes that would run on integers if their values are finite, in graph order."""
        return tuple(label(node) for node in self.placement(model).nodes)

    def placement(self, model: Model) -> Placement:
        """Where integers would go in a copy of the model, if all its values are finite."""
        model, skip, _ = self._prepared(model)
        return place(model, skip, self.scheme.residual)

    def _prepared(self, model: Model) -> tuple[Model, dict[ir.Node, str], tuple[Note, ...]]:
        """A copy of the model with all that can run on integers in reach and in the form that does.

        Also the nodes that are to stay float, with the reason, and why local functions were not put into the graph.
        """
        inlined = InlineFunctions(tuple(sorted(COMPUTE))).inline(raise_opset(model, OPSET))
        model = inlined.model.clone()
        make_names_unique(model)
        unprotect(model)
        skip = self._skipped(model)
        MatMulAddToGemm().apply(model, skip)
        return model, skip, inlined.notes

    def _skipped(self, model: Model) -> dict[ir.Node, str]:
        skip = left_float(nodes(model), self.exclude, self.keep_float)
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
    model: Model, whole: Model, skip: Mapping[ir.Node, str], item: StaticQuantize, data: Dataset, ctx: Context
) -> tuple[Placement, Mapping[str, Statistics]]:
    """The placement whose values are all finite on ``data``, and their statistics; nodes at other values stay float.

    Statistics are those of ``whole``, in which no node is skipped: whatever a candidate skips, one pass serves all.
    """
    residual = item.scheme.residual
    if not place(model, skip, residual).nodes:
        return place(model, skip, residual), {}
    skip, histograms = dict(skip), needs_histogram(item.calibrator)
    try:
        found = statistics(whole, quantizable(whole), data, ctx, histograms=histograms)
    except OnnxoptError as error:
        reason = f"the values in the body around it cannot be had: {error.what}"
        inside, hidden = (
            dict.fromkeys((node for graph in m.graph.subgraphs() for node in graph), reason) for m in (model, whole)
        )
        if not hidden:
            raise
        skip |= inside
        found = statistics(whole, quantizable(whole, hidden), data, ctx, histograms=histograms)
    while True:
        placement = place(model, skip, residual)
        bad = dict[ir.Node, str]()
        for value, source in placement.grid_of.items():
            if (reason := _reason(found[source.name or ""])) is not None:
                bad |= dict.fromkeys(_touching(value), reason)
        for node in placement.nodes:
            if node.graph is not model.graph and (reason := _reason(found[node.outputs[0].name or ""])) is not None:
                bad[node] = reason
        if not bad:
            return placement, found
        skip |= bad


def _reason(found: Statistics) -> str | None:
    """Why there is no range to take from these statistics; ``None``: there is."""
    if not found.range.finite:
        return "it reads or makes NaN or infinite values on the calibration data"
    return None if found.samples else "no calibration sample reaches it"


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
