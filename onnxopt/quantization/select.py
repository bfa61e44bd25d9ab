"""Which nodes run on integer kernels, and which values carry QuantizeLinear / DequantizeLinear pairs for that.

ONNX Runtime's CPU provider turns these into one integer kernel each (``tests/quantization/test_kernels.py`` reads it
from the optimized graph): Conv, Gemm and MatMul with constant weights, an Add or Concat of quantized values, and ops
that only move codes (MaxPool, Reshape, ...) between quantized values. A Relu or Clip between such a node and its
QuantizeLinear disappears into the grid. Everything else stays float and gets no pair. The bodies of control flow are
fused like the main graph, as long as each has DequantizeLinear nodes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import nested_graphs
from onnxopt.core.query import Model, constant, label
from onnxopt.core.report import Note
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import reason_not_constant

__all__ = [
    "ACTIVATIONS",
    "COMPUTE",
    "Placement",
    "compute_reason",
    "flag",
    "keep_float",
    "place",
    "quantizable",
    "stems",
    "weight_axis",
]

ACTIVATIONS = frozenset({"Relu", "Clip"})
MOVES = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace"})
"""Ops whose output holds only codes of the input, so that both share one grid."""
COMPUTE = frozenset({"Conv", "MatMul", "Gemm"})
STEM_CHANNELS = 4
FLOAT_BECAUSE = "onnxopt.float"
"""Key of a node's metadata under which a pass says why the node is to stay float."""


@dataclass(frozen=True)
class Placement:
    """Where integer kernels and Q/DQ pairs go, in graph order.

    Attributes:
        nodes: Conv, Gemm and MatMul nodes that run on integers.
        produced: Values quantized where they are made: every reader reads the dequantized value.
        consumed: Values made by float ops: only the readers in ``nodes`` read a quantized form.
        grid_of: Value -> the value whose range it uses (itself, or the input of the op that only moves codes).
        notes: Compute nodes that stay float, with the reason.
    """

    nodes: tuple[ir.Node, ...]
    produced: tuple[ir.Value, ...]
    consumed: tuple[ir.Value, ...]
    grid_of: dict[ir.Value, ir.Value]
    notes: tuple[Note, ...]


def place(model: Model, exclude: Mapping[ir.Node, str] = MappingProxyType({}), residual: bool = False) -> Placement:
    """The placement for the main graph and the bodies of control flow.

    Args:
        model: The model; what local functions hold stays float (``passes.rewrite.inline`` puts it into the graph).
        exclude: Nodes that are to stay float, with the reason.
        residual: Whether a Conv takes the other side of a residual Add into its own sums (``QuantScheme.residual``).
    """
    nodes: list[ir.Node] = []
    notes: list[Note] = []
    for node in _nodes(model):
        if node.op_type not in COMPUTE or node.domain != "":
            continue
        reason = exclude.get(node) or compute_reason(node)
        if reason is None:
            nodes.append(node)
        else:
            notes.append(Note(label(node), "float", reason))
    integer = set(nodes)
    absorbed = _absorbed(nodes) if residual else frozenset[ir.Value]()
    produced: dict[ir.Value, ir.Value] = {}
    for node in _nodes(model):
        if node in exclude or any(v in absorbed for v in node.outputs):
            continue
        value = _produced_by(node, integer, produced, absorbed)
        if value is not None:
            moved = node.op_type in MOVES and node.inputs[0] is not None
            produced[value] = produced[node.inputs[0]] if moved and node.inputs[0] in produced else value
    consumed = dict.fromkeys(n.inputs[0] for n in nodes if n.inputs[0] is not None and n.inputs[0] not in produced)
    for function in model.functions.values():
        notes.extend(
            Note(label(n), "float", "it is in a local function")
            for n in ir.traversal.RecursiveGraphIterator(function.graph)
            if n.op_type in COMPUTE
        )
    grid_of = {**produced, **{v: v for v in consumed}}
    return Placement(tuple(nodes), tuple(produced), tuple(consumed), grid_of, tuple(notes))


def quantizable(model: Model, exclude: Mapping[ir.Node, str] = MappingProxyType({})) -> tuple[str, ...]:
    """Names of all values whose range a placement may ask for, whatever nodes it excludes beside ``exclude``.

    One calibration of these serves every candidate. Excluding nodes only ever takes values away from those quantized at
    their source; a node that remains then reads a quantized form of its own input. What nodes inside bodies make is
    among them too: it tells whether they ever ran.
    """
    full = place(model, exclude)
    inside = [node.outputs[0] for node in full.nodes if node.graph is not model.graph]
    values = [*full.grid_of.values(), *(node.inputs[0] for node in full.nodes), *inside]
    return tuple(dict.fromkeys(v.name for v in values if v is not None and v.name))


def compute_reason(node: ir.Node) -> str | None:
    """Why a Conv, Gemm or MatMul has no integer kernel; ``None`` when it has one."""
    if FLOAT_BECAUSE in node.metadata_props:
        return node.metadata_props[FLOAT_BECAUSE]
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "an attribute is decided by the caller of its function"
    data, weight = node.inputs[0], node.inputs[1]
    tensor = constant(weight)
    if tensor is None or data is None:
        return f"its weight {reason_not_constant(weight)}"
    if constant(data) is not None:
        return "its data input is constant"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}, not float32"
    with borrow(tensor) as array:
        if not np.isfinite(array).all():
            return "its weight holds NaN or infinity"
    dims = len(tensor.shape)
    if node.op_type == "MatMul" and dims != 2:
        return f"its weight has {dims} dimensions, not 2"
    if node.op_type == "Gemm":
        return _gemm_reason(node)
    bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
    return "its bias is not constant" if bias is not None and constant(bias) is None else None


def keep_float(node: ir.Node, reason: str) -> None:
    """Marks a node that a pass has made to stay float."""
    node.metadata_props[FLOAT_BECAUSE] = reason


def weight_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weight of a Conv, Gemm or MatMul."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and flag(node, "transB") else 1


def stems(model: Model) -> frozenset[ir.Node]:
    """The Convs that read an input of few channels, and the depthwise Conv behind such a Conv.

    The integer kernel gains little or nothing on them (measured: 0.5x to 1.5x for few channels, 0.7x for a depthwise
    Conv at full resolution), and what they cost in accuracy every later layer inherits.
    """
    found: set[ir.Node] = set()
    behind: set[ir.Value] = set()
    computed: set[ir.Value] = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        data = next(iter(node.inputs), None)
        if node.op_type == "Conv" and node.domain == "" and compute_reason(node) is None and data is not None:
            weight = constant(node.inputs[1])
            channels = 0 if weight is None else int(weight.shape.numpy()[1])
            group = node.attributes["group"].as_int() if "group" in node.attributes else 1
            few = group == 1 and channels <= STEM_CHANNELS and data not in computed
            if few or (group > 1 and channels == 1 and data in behind):
                found.add(node)
                behind.update(node.outputs if few else ())
        elif node.op_type in ACTIVATIONS and data in behind:
            behind.update(node.outputs)
        bodies = [graph for attribute in node.attributes.values() for graph in nested_graphs(attribute)]
        if any(v in computed for v in node.inputs):
            computed.update(node.outputs)
            computed.update(v for graph in bodies for v in graph.inputs)
        elif node.op_type in COMPUTE or any(map(_computes, bodies)):
            computed.update(node.outputs)
    return frozenset(found)


def _computes(graph: ir.Graph) -> bool:
    return any(node.op_type in COMPUTE for node in ir.traversal.RecursiveGraphIterator(graph))


def _nodes(model: Model) -> Iterator[ir.Node]:
    """The nodes outside local functions, graph by graph, outer ones first."""
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph


def _gemm_reason(node: ir.Node) -> str | None:
    if flag(node, "transA"):
        return "its data input is transposed"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return None
    beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 1.0
    tensor = constant(bias)
    if tensor is None or beta != 1.0:
        return "its bias is not constant" if tensor is None else "its bias is scaled"
    weight = constant(node.inputs[1])
    channels = None if weight is None else weight.shape[weight_axis(node)]
    dims = tuple(tensor.shape)
    return None if dims in ((channels,), (1, channels)) else "its bias is not one value per output channel"


def _absorbed(nodes: Sequence[ir.Node]) -> frozenset[ir.Value]:
    """Outputs of Convs that only a residual Add reads; of two such outputs of one Add that of the later Conv."""
    found: dict[ir.Node, ir.Value] = {}
    for node in nodes:
        value = node.outputs[0]
        if node.op_type != "Conv" or len(value.uses()) != 1 or value.is_graph_output():
            continue
        reader = value.consumers()[0]
        if reader.op_type == "Add" and reader.domain == "" and reader.graph is node.graph:
            found[reader] = value
    return frozenset(found.values())


def _produced_by(
    node: ir.Node, integer: set[ir.Node], produced: dict[ir.Value, ir.Value], absorbed: frozenset[ir.Value]
) -> ir.Value | None:
    """The value to quantize at its source when ``node`` runs on integers, after the activation that it absorbs."""
    if node.domain != "" or not node.outputs:
        return None
    if node.op_type == "Conv" and node in integer:
        return _after_activation(node)
    if node in integer:
        value = _after_activation(node)
        # A Relu or Clip with one reader that is not QuantizeLinear keeps the runtime from fusing at all.
        blocked = value is not node.outputs[0] and len(value.uses()) == 1
        return value if blocked or _all_readers(value, lambda reader: reader in integer) else None
    ready = [v in produced for v in node.inputs]
    if (
        node.op_type == "Add"
        and any(ready)
        and all(r or v in absorbed for r, v in zip(ready, node.inputs, strict=True))
    ):
        return _after_activation(node)
    moves = node.op_type in MOVES and len(node.outputs) == 1 and node.inputs[0] in produced
    if moves or (node.op_type == "Concat" and all(v in produced for v in node.inputs)):
        return node.outputs[0] if _all_readers(node.outputs[0], lambda reader: _wants(reader, integer)) else None
    return None


def _after_activation(node: ir.Node) -> ir.Value:
    value = node.outputs[0]
    readers = value.consumers()
    if len(readers) == 1 and not value.is_graph_output() and readers[0].graph is node.graph:
        follower = readers[0]
        if follower.op_type in ACTIVATIONS and follower.domain == "" and follower.inputs[0] is value:
            limits = follower.inputs[1:]
            if all(v is None or constant(v) is not None for v in limits):
                return follower.outputs[0]
    return value


def _all_readers(value: ir.Value, accepts: Callable[[ir.Node], bool]) -> bool:
    readers = value.consumers()
    return bool(readers) and not value.is_graph_output() and all(accepts(r) for r in readers)


def _wants(reader: ir.Node, integer: set[ir.Node]) -> bool:
    """Whether ``reader`` gains from an integer input: it computes on it, adds it, or moves it to one that does."""
    if reader in integer or reader.op_type == "Add":
        return True
    moves = reader.op_type in {*MOVES, "Concat"} and reader.domain == "" and len(reader.outputs) == 1
    return moves and _all_readers(reader.outputs[0], lambda r: _wants(r, integer))


def flag(node: ir.Node, name: str) -> bool:
    """Whether an integer attribute is there and not 0."""
    return name in node.attributes and node.attributes[name].as_int() != 0
