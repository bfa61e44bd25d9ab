"""Dynamic INT8: activations of MatMul, Gemm and LSTM are quantized at run time, weights ahead of it; no data needed.

An LSTM becomes one node of ONNX Runtime's own (``recurrent``). For MatMul and Gemm the pattern is the one that it fuses
into DynamicQuantizeMatMul or MatMulIntegerToFloat: DynamicQuantizeLinear, MatMulInteger, Cast, Mul by ``activation
scale * weight scale``, and for a bias one Add. Conv is left alone: its dynamic form ran at 0.1x to 0.5x of float on
CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.cost import cost
from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model, constant, graphs, label, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array, borrow
from onnxopt.passes.base import Context, PassResult
from onnxopt.quantization.affine import WeightRange, quantize_array, weight_scale
from onnxopt.quantization.existing import has_quantized_weight
from onnxopt.quantization.patterns import excluded, left_float
from onnxopt.quantization.portability.weights import ZERO, as_unsigned, narrow_scale
from onnxopt.quantization.recurrent import RECURRENT, quantize_lstm, recurrent_reason
from onnxopt.quantization.scheme import CPU_X86, PerAxis, QuantScheme
from onnxopt.quantization.select import COMPUTE, compute_reason, flag, weight_axis

__all__ = ["DYNAMIC", "DynamicQuantize", "dynamic_reason", "macs_share"]

OPSET = 11
"""The first opset with DynamicQuantizeLinear."""
DYNAMIC = frozenset({"MatMul", "Gemm", "LSTM"})


@dataclass(frozen=True)
class DynamicQuantize:
    """Quantizes MatMul, Gemm and LSTM nodes with constant weights, in nested graphs and local functions too.

    What already runs on integers is left as it is: run it after ``StaticQuantize`` for the rest of the model.

    Attributes:
        exclude: Shell-style patterns of node names, or op types, that stay float.
        keep_float: Labels of nodes that stay float: integers take longer there, or cost accuracy.
        weight_range: Where the grids of the weights end (``affine.weight_scale``).
        scheme: The integer grids; only that of the weights is used.
        narrow: Names of weights that get a grid on which no pair of them saturates without VNNI.
        unsigned: Names of weights that are stored as U8, whose products never saturate.
    """

    name: ClassVar[str] = "quantize-dynamic"
    lossy: ClassVar[bool] = True

    exclude: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    weight_range: WeightRange = "minmax"
    scheme: QuantScheme = CPU_X86
    narrow: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites the nodes; ``changes`` counts them.

        Raises:
            UsageError: An exclusion pattern matches no node.
        """
        del ctx
        excluded(nodes(model), self.exclude)
        model = raise_opset(model, OPSET)
        skip = left_float(nodes(model), self.exclude, self.keep_float)
        writer = _Writer(model, self)
        changes = 0
        notes: list[Note] = []
        for graph in graphs(model):
            for node in list(graph):
                if node.op_type not in COMPUTE | RECURRENT or node.domain != "":
                    continue
                reason = skip.get(node) or dynamic_reason(node)
                if reason is None:
                    writer.rewrite(node)
                    changes += 1
                else:
                    notes.append(Note(label(node), "float", reason))
        return PassResult(model, changes, tuple(notes))


def macs_share(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The part of the model's multiply-accumulates that dynamic quantization can reach; 1 where it is not known."""
    found = cost(model, shapes)
    reached = [n for n in nodes(model) if n.op_type in DYNAMIC and n.domain == "" and dynamic_reason(n) is None]
    if found.unknown or not found.total_macs:
        return 1.0
    return sum(found.macs.get(label(n), 0) for n in reached) / found.total_macs


def dynamic_reason(node: ir.Node) -> str | None:
    """Why a Conv, MatMul, Gemm, LSTM, GRU or RNN has no dynamic integer form; ``None`` when it has one."""
    if has_quantized_weight(node):
        return "its weight is quantized already"
    if node.op_type in RECURRENT:
        return recurrent_reason(node)
    if node.op_type not in DYNAMIC:
        return f"the dynamic form of {node.op_type} is slower than float"
    return compute_reason(node)


class _Writer:
    """Rewrites nodes of one model; remembers what it has written, so that shared inputs and weights stay shared."""

    def __init__(self, model: Model, item: DynamicQuantize) -> None:
        self.edit = Editor(model)
        self.weight_range: WeightRange = item.weight_range
        self.grid = item.scheme.weights
        self.narrow, self.unsigned = frozenset(item.narrow), frozenset(item.unsigned)
        self.activations: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.weights: dict[tuple[ir.Value, bool, float], tuple[ir.Value, ir.Value, ir.Value]] = {}

    def rewrite(self, node: ir.Node) -> None:
        """Replaces a MatMul, Gemm or LSTM by its dynamic integer form."""
        if node.op_type in RECURRENT:
            quantize_lstm(self.edit, node, self.grid)
            return
        data, weight = node.inputs[0], node.inputs[1]
        if data is None or weight is None:
            raise ValueError(f"{node.name!r} has no data or weight")
        codes, data_scale, data_zero = self._activation(data, node)
        weight_codes, scale, zero = self._weight(weight, node)
        base = node.name or "matmul"
        products = self.edit.insert(
            "MatMulInteger", [codes, weight_codes, data_zero, zero], before=node, base=f"{base}_products"
        )
        floats = self.edit.insert(
            "Cast",
            [products],
            before=node,
            base=f"{base}_float",
            attributes=[ir.AttrInt64("to", ir.DataType.FLOAT.value)],
        )
        factor = self.edit.insert("Mul", [data_scale, scale], before=node, base=f"{base}_factor")
        result = self.edit.insert("Mul", [floats, factor], before=node, base=f"{base}_scaled")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            result = self.edit.insert("Add", [result, bias], before=node, base=f"{base}_biased")
        result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        self.edit.replace_node(node, [result])
        clear_unused([weight])

    def _activation(self, data: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        known = self.activations.get(data)
        if known is not None and _same_graph(known[0], node):
            return known
        quantize = ir.node("DynamicQuantizeLinear", [data], num_outputs=3, name=self.edit.fresh_name("dynamic"))
        for output, suffix in zip(quantize.outputs, ("quantized", "scale", "zero_point"), strict=True):
            output.name = self.edit.fresh_name(f"{data.name}_dynamic_{suffix}")
        graph = node.graph
        if graph is None:
            raise ValueError(f"{node.name!r} is in no graph")
        graph.insert_before(node, quantize)
        codes, scale, zero = quantize.outputs
        self.activations[data] = (codes, scale, zero)
        return codes, scale, zero

    def _weight(self, weight: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        transposed = node.op_type == "Gemm" and flag(node, "transB")
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
        key = (weight, transposed, alpha)
        known = self.weights.get(key)
        if known is not None:
            return known
        tensor = constant(weight)
        if tensor is None:
            raise ValueError(f"{weight.name!r} is not constant")
        axis = PerAxis(weight_axis(node))
        with borrow(tensor) as array:
            scale = weight_scale(array, axis, self.grid, self.weight_range)
            scale = np.where(scale > 0, scale, np.float32(1))
            if weight.name in self.narrow:
                scale = narrow_scale(array, axis.axis, scale)
            codes: Array = quantize_array(array, scale, 0, axis, self.grid)
            codes = as_unsigned(codes) if weight.name in self.unsigned else codes
        name, zero = weight.name or "weight", ZERO if codes.dtype == np.uint8 else 0
        written = (
            self.edit.add_constant(f"{name}_quantized", codes.T.copy() if transposed else codes, before=node),
            self.edit.add_constant(f"{name}_scale", (scale * np.float32(alpha)).astype(np.float32), before=node),
            self.edit.add_constant(f"{name}_zero_point", np.full(scale.shape, zero, codes.dtype), before=node),
        )
        if node.graph is weight.graph:
            self.weights[key] = written
        return written


def _same_graph(value: ir.Value, node: ir.Node) -> bool:
    producer = value.producer()
    return producer is not None and producer.graph is node.graph
