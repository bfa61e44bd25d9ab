"""For which nodes of a model each executed kernel stands.

ONNX Runtime fuses, renames, folds and reorders before it runs. Most tensors between two of its kernels keep the names
they have in the file, and a kernel stands for the nodes of the file between its outputs and the nearest tensors that
some other kernel makes. Where a rewrite renamed a tensor, the name of the node tells, or the nearest kernel further
down whose output has kept its name. What ONNX Runtime put in by itself stands for nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.measurement.trace import Kernel

__all__ = ["COMPUTE_OPS", "attribute"]

COMPUTE_OPS = frozenset(
    [
        *("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "FusedConv", "QLinearConv"),
        *("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "MatMulNBits", "MatMulIntegerToFloat"),
        *("DynamicQuantizeMatMul", "Gemm", "QGemm", "FusedGemm", "Einsum"),
        *("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"),
        *("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"),
        *("If", "Loop", "Scan"),
    ]
)
"""Operators that do the work of a model; control flow counts, since its bodies may."""

RUNTIME_OPS = frozenset({"ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost"})
INSERTED = re.compile(r"^Inserted\w*Cast")
SUFFIX = re.compile(r"(_nchwc)?(_token_\d+)?$")
"""What a rewrite appends to the name of a node to make a new one, or of the tensor that a blocked convolution makes."""
SUM_INPUT = 3
"""The input of a blocked convolution that is added to its result."""
ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "LeakyRelu", "Clip"})
CONVERSIONS = frozenset({"Cast", "Transpose", "QuantizeLinear", "DequantizeLinear"})
"""Put in, or moved to another place, by optimizers: they stand for a node of their own kind or for nothing."""


def attribute(model: Model, kernels: Sequence[Kernel], optimized: Path | None) -> list[tuple[str, ...]]:
    """For each kernel the labels of the nodes it stands for; empty: the runtime's own.

    Those that do the work come first, those that only make constants last, else in graph order.

    A node may stand behind several kernels (a shared DequantizeLinear, an operator that became several), and those that
    only make constants belong to the kernels that use them.

    Args:
        model: The model in the file; nodes without a name ran under their labels.
        kernels: What was executed.
        optimized: The graph that was executed; ``None``: only names tell.
    """
    if optimized is None:
        known = {label(node) for node in nodes(model)}
        return [(k.name,) if k.name in known else () for k in kernels]
    proto = onnx.ModelProto.FromString(optimized.read_bytes())
    executed = [_Executed(n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in proto.graph.node]
    behind = _Origins(model, executed).behind
    places: dict[tuple[str, str], list[int]] = {}
    for i in reversed(range(len(executed))):
        places.setdefault((executed[i].name, executed[i].op), []).append(i)
    found: list[tuple[str, ...]] = []
    for k in kernels:  # ONNX Runtime calls a nameless node by its operator and number
        left = places.get((k.name, k.op)) or places.get(("", k.op))
        found.append(behind[left.pop()] if left else ())
    return found


@dataclass(frozen=True)
class _Executed:
    """A node of the optimized graph."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Origins:
    """The labels behind each executed node; holds what the search looks up."""

    def __init__(self, model: Model, executed: Sequence[_Executed]) -> None:
        self._executed = executed
        self._order = {id(node): i for i, node in enumerate(model.graph)}
        self._producer = {v.name: node for node in model.graph for v in node.outputs if v.name}
        self._values = {v.name: v for node in model.graph for v in node.outputs if v.name}
        self._by_name = _unique(list(model.graph))
        names = [e.name for e in executed]
        self._constant = _constant_nodes(model)
        self._kept_names = {name for name in names if name in self._by_name}
        self._consumers: dict[str, list[int]] = {}
        for i, e in enumerate(executed):
            for name in e.inputs:
                self._consumers.setdefault(name, []).append(i)
        self._anchors = [self._kept_tensors(e) for e in executed]
        named = [i for i, e in enumerate(executed) if not self._anchors[i] and not _is_inserted(e)]
        for i in named:
            self._anchors[i] = self._tensors_of_name(executed[i])
        self._made = {name for anchors in self._anchors for name in anchors}
        for i in named:
            if len(self._anchors[i]) == 1:
                self._anchors[i] = frozenset({self._end_of_fusion(executed[i], *self._anchors[i])})
                self._made |= self._anchors[i]
        self._made = {name for anchors in self._anchors for name in anchors}
        self.behind = [self._nodes_behind(i) for i in range(len(executed))]

    def _kept_tensors(self, e: _Executed) -> frozenset[str]:
        """The tensors of the file that the node makes under their names; a conversion that was put in takes a name."""
        if _is_inserted(e):
            return frozenset()
        kept = frozenset(name for name in e.outputs if name in self._producer)
        if e.op in CONVERSIONS:
            return frozenset(name for name in kept if self._producer[name].op_type == e.op)
        return kept

    def _tensors_of_name(self, e: _Executed) -> frozenset[str]:
        """The tensors of the file that the node makes by what it is called."""
        base = SUFFIX.sub("", e.name)
        if e.name.startswith(f"{base}_nchwc") and base in self._producer:
            return frozenset({base})
        node = self._by_name.get(e.name) or self._by_name.get(base)
        return frozenset(v.name for v in node.outputs if v.name) if node is not None else frozenset()

    def _end_of_fusion(self, e: _Executed, name: str) -> str:
        """The last tensor that the node makes, where it is called after the first: it takes in what follows."""
        taken = set(ACTIVATIONS)
        if len(e.inputs) > SUM_INPUT and e.inputs[SUM_INPUT] and e.op == "Conv":
            taken |= {"Add", "Sum"}
        if e.op.startswith("Q"):
            taken.add("QuantizeLinear")
        while True:
            value = self._values[name]
            uses = list(value.uses())
            if len(uses) != 1 or value.is_graph_output():
                return name
            after = uses[0].node
            end = after.outputs[0].name
            if after.op_type not in taken or label(after) in self._kept_names or not end or end in self._made:
                return name
            name = end

    def _nodes_behind(self, i: int) -> tuple[str, ...]:
        e = self._executed[i]
        if _is_inserted(e):
            return ()
        ends = self._anchors[i] or frozenset(self._producer.keys() & e.outputs) or self._next_anchors(i)
        found = self._between(ends, e.name)
        if not self._anchors[i] and e.op in CONVERSIONS:
            found = [node for node in found if node.op_type == e.op]
        return tuple(dict.fromkeys(label(node) for node in sorted(found, key=self._rank)))

    def _rank(self, node: ir.Node) -> int:
        if id(node) in self._constant:
            return 3
        return 0 if node.op_type in COMPUTE_OPS else 2 if node.op_type in CONVERSIONS else 1

    def _next_anchors(self, i: int) -> frozenset[str]:
        """The nearest tensors of the file downstream of a node that makes none."""
        found: set[str] = set()
        seen, todo = {i}, [i]
        while todo:
            for output in self._executed[todo.pop()].outputs:
                for k in self._consumers.get(output, []):
                    if k not in seen:
                        seen.add(k)
                        found |= self._anchors[k]
                        if not self._anchors[k]:
                            todo.append(k)
        return frozenset(found)

    def _between(self, ends: Iterable[str], name: str) -> list[ir.Node]:
        """The nodes that make the tensors ``ends`` from tensors that other executed nodes make, in graph order."""
        stop = self._made - set(ends)
        found: dict[int, ir.Node] = {}
        todo = [node for end in ends if (node := self._producer.get(end)) is not None]
        while todo:
            node = todo.pop()
            if id(node) in found or node.op_type == "Constant":
                continue
            found[id(node)] = node
            for value in node.inputs:
                given = value.name if value is not None else None
                before = self._producer.get(given) if given is not None and given not in stop else None
                if before is not None and (label(before) == name or label(before) not in self._kept_names):
                    todo.append(before)
        return sorted(found.values(), key=lambda node: self._order[id(node)])


def _is_inserted(e: _Executed) -> bool:
    return e.op in RUNTIME_OPS or INSERTED.match(e.name) is not None


def _constant_nodes(model: Model) -> set[int]:
    """Identities of the nodes of the main graph that depend on no input."""
    found: set[int] = set()
    for node in model.graph:
        producers = [(v, v.producer()) for v in node.inputs if v is not None]
        if all(constant(v) is not None or (p is not None and id(p) in found) for v, p in producers):
            found.add(id(node))
    return found


def _unique(nodes: Sequence[ir.Node]) -> Mapping[str, ir.Node]:
    """Nodes by label, where no other has it."""
    counts = Counter(label(node) for node in nodes)
    return {label(node): node for node in nodes if counts[label(node)] == 1}
