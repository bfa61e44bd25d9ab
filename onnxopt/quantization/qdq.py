"""Writes QuantizeLinear / DequantizeLinear pairs.

ONNX Runtime fuses only what is in one graph: each body gets a DequantizeLinear of its own, while codes and scales stay
where the value is made, and are read from outside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of
from onnxopt.core.query import Model, constant
from onnxopt.core.tensors import borrow, read
from onnxopt.quantization.affine import WeightRange, quantize_array, weight_scale
from onnxopt.quantization.portability.weights import ZERO, as_unsigned, narrow_scale
from onnxopt.quantization.scheme import PerAxis, QuantScheme
from onnxopt.quantization.select import weight_axis

__all__ = ["GridPoint", "PairWriter"]

Array: TypeAlias = np.ndarray[Any, Any]
GridPoint: TypeAlias = tuple[np.float32, int]
"""Scale and zero point of one value."""
Codes: TypeAlias = tuple[ir.Value, ir.Value, ir.Value]
"""Codes, scale and zero point, as values of the graph."""

SMALLEST_PRODUCT = 1e-30
"""Lower bound on activation scale * weight scale, well above what float32 flushes to zero."""
BIAS_LIMIT = 2**30
"""Codes of a bias stay below this, half of what int32 holds, so that the accumulator has room for the products."""


class PairWriter:
    """Writes into one model; remembers what is written already, so that shared weights stay shared."""

    def __init__(
        self,
        model: Model,
        scheme: QuantScheme,
        weight_range: WeightRange,
        narrow: Collection[str] = (),
        unsigned: Collection[str] = (),
    ) -> None:
        self.scheme = scheme
        self.weight_range: WeightRange = weight_range
        self.narrow, self.unsigned = frozenset(narrow), frozenset(unsigned)
        self.edit = Editor(model)
        self.weights: dict[tuple[int, int, ir.Graph], tuple[ir.TensorProtocol, Array, Codes]] = {}
        self.dequantized: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}

    def quantize_constants(self, node: ir.Node, grids: Mapping[ir.Value, GridPoint]) -> None:
        """Replaces the weight by DQ(int8) and the bias by DQ(int32)."""
        data, weight = node.inputs[0], node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if data is None or weight is None:
            raise ValueError(f"{node.name!r} has no data or weight")
        data_scale = float(grids[data][0])
        tensor = None if self.scheme.float_bias else constant(bias)
        values = None if tensor is None else np.asarray(read(tensor), np.float64).reshape(-1)
        codes, scale = self._weight(node, weight, data_scale, values)
        axis = weight_axis(node)
        node.replace_input_with(1, self._at_start(codes, graph_of(node), f"{weight.name}_dequantized", axis))
        if bias is not None and values is not None:
            bias_scale = (scale.astype(np.float64) * data_scale).astype(np.float32)
            integers = np.rint(values / bias_scale).astype(np.int32)
            written = self._constants(bias, integers, bias_scale)
            node.replace_input_with(2, self._at_start(written, graph_of(node), f"{bias.name}_dequantized", 0))
        clear_unused([weight] if values is None else [weight, bias])

    def quantize_for(self, value: ir.Value, readers: Iterable[ir.Node], grid: GridPoint) -> None:
        """Lets the integer ``readers`` of a float ``value`` read a quantized form of it, made in their own graphs."""
        wanted = set(readers)
        known: Codes | None = None
        for graph, nodes in _by_graph(value, [n for n in value.consumers() if n in wanted and n.inputs[0] is value]):
            if known is not None:
                dequantized = self._at_start(known, graph, f"{value.name}_dequantized")
            else:
                codes, dequantized = self._pair(value, grid, graph)
                known = codes if graph is _home(value) else None
            for node in nodes:
                node.replace_input_with(0, dequantized)

    def quantize_at_source(self, value: ir.Value, grid: GridPoint) -> None:
        """Lets all readers of ``value`` read its dequantized form; a graph output keeps its name."""
        uses = [(use.node, use.idx) for use in value.uses()]
        home = _home(value)
        outputs = [i for i, output in enumerate(home.outputs) if output is value]
        codes, dequantized = self._pair(value, grid, home)
        for node, index in uses:
            graph = graph_of(node)
            own = dequantized if graph is home else self._at_start(codes, graph, f"{value.name}_dequantized")
            node.replace_input_with(index, own)
        if outputs:
            name = value.name
            value.name = self.edit.fresh_name(f"{name}_float")
            for index in outputs:
                home.outputs[index] = dequantized
            dequantized.name = name

    def _weight(self, node: ir.Node, weight: ir.Value, data_scale: float, bias: Array | None) -> tuple[Codes, Array]:
        """The codes of a weight, in the graph that it lives in, and its scales: (channels,)."""
        tensor = constant(weight)
        if tensor is None:
            raise ValueError(f"{weight.name!r} is not constant")
        axis = weight_axis(node)
        with borrow(tensor) as array:
            scale = weight_scale(array, PerAxis(axis), self.scheme.weights, self.weight_range)
            if weight.name in self.narrow:
                scale = narrow_scale(array, axis, scale)
            # A channel of zeros may have any scale; a bias must fit int32 at `data_scale * scale`.
            needed = np.full(scale.shape, SMALLEST_PRODUCT / data_scale)
            if bias is not None:
                needed = np.maximum(needed, np.abs(bias) / (data_scale * BIAS_LIMIT))
            scale = np.maximum(scale, needed.astype(np.float32))
            key = (id(tensor), axis, _home(weight))
            known = self.weights.get(key)
            if known is not None and np.array_equal(known[1], scale):
                return known[2], scale
            integers = quantize_array(array, scale, 0, PerAxis(axis), self.scheme.weights)
            integers = as_unsigned(integers) if weight.name in self.unsigned else integers
        written = self._constants(weight, integers, scale)
        self.weights[key] = tensor, scale, written  # the tensor is kept so that no other gets its id
        return written, scale

    def _constants(self, source: ir.Value, integers: Array, scale: Array) -> Codes:
        name, before = source.name or "weight", _home(source)[0]
        zero = ZERO if integers.dtype == np.uint8 else 0
        return (
            self.edit.add_constant(f"{name}_quantized", integers, before=before),
            self.edit.add_constant(f"{name}_scale", scale, before=before),
            self.edit.add_constant(f"{name}_zero_point", np.full(scale.shape, zero, integers.dtype), before=before),
        )

    def _at_start(self, codes: Codes, graph: ir.Graph, base: str, axis: int | None = None) -> ir.Value:
        """The value that ``codes`` stand for, dequantized at the start of ``graph``, once."""
        known = self.dequantized.get((codes[0], graph))
        if known is None:
            attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
            known = self.edit.insert("DequantizeLinear", codes, before=graph[0], base=base, attributes=attributes)
            self.dequantized[codes[0], graph] = known
        return known

    def _pair(self, value: ir.Value, grid: GridPoint, graph: ir.Graph) -> tuple[Codes, ir.Value]:
        """The codes of ``value`` and what they stand for: after the node that makes it, or at the start of a body."""
        scale, zero_point = grid
        producer = value.producer() if graph is _home(value) else None
        first = graph[0]
        name = value.name or "value"
        parameters = (
            self.edit.add_constant(f"{name}_scale", np.asarray(scale), before=first),
            self.edit.add_constant(
                f"{name}_zero_point", np.asarray(zero_point, self.scheme.activations.dtype), before=first
            ),
        )
        pair: list[ir.Node] = []
        current = value
        for op_type, base in (("QuantizeLinear", "quantized"), ("DequantizeLinear", "dequantized")):
            node = ir.node(op_type, [current, *parameters], name=self.edit.fresh_name(f"{name}_{op_type}"))
            current = node.outputs[0]
            current.name = self.edit.fresh_name(f"{name}_{base}")
            pair.append(node)
        if producer is None:
            graph.insert_before(first, pair)
        else:
            graph.insert_after(producer, pair)
        current.type, current.shape = value.type, value.shape
        codes = pair[0].outputs[0]
        codes.type = ir.TensorType(ir.DataType.from_numpy(self.scheme.activations.dtype))
        codes.shape = value.shape
        return (codes, *parameters), current


def _home(value: ir.Value) -> ir.Graph:
    """The graph that makes ``value``, or has it as input or initializer."""
    producer = value.producer()
    graph = value.graph if producer is None else producer.graph
    if not isinstance(graph, ir.Graph):
        raise ValueError(f"{value.name!r} is in no graph")
    return graph


def _by_graph(value: ir.Value, readers: Sequence[ir.Node]) -> list[tuple[ir.Graph, list[ir.Node]]]:
    """The readers of each graph, those beside ``value`` itself first."""
    found: dict[ir.Graph, list[ir.Node]] = {}
    for node in readers:
        found.setdefault(graph_of(node), []).append(node)
    home = _home(value)
    return sorted(found.items(), key=lambda item: item[0] is not home)
