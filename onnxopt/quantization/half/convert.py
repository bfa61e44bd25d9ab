"""Converts a float32 model to float16 or bfloat16, its inputs and outputs excepted.

Own code in place of ``onnxruntime.transformers.float16``: that puts all casts for nodes that stay float32 into the main
graph (a nested graph then reads what does not exist there), fails on equal names of initializers in two graphs, does
not look into local functions, and clamps what is too large without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model, label, nodes, opset
from onnxopt.core.report import Note
from onnxopt.core.shapes import infer_shapes
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.cleanup.noops import RemoveNoOps
from onnxopt.passes.constants import is_op, tensor_of
from onnxopt.quantization.half.casts import Casts
from onnxopt.quantization.half.reach import becoming_integers, largest_values, range_reason
from onnxopt.quantization.half.support import Half, Slots, find_support
from onnxopt.quantization.patterns import excluded

__all__ = ["HalfConvert"]

OPSETS: dict[Half, int] = {"float16": 7, "bfloat16": 13}
"""The first operator set that is worth while: in older ones hardly any operator knows the type."""
NO_TENSORS = ("Sequence", "Optional")
LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Einsum", "Attention")
"""What gets faster; anything else is converted only where it stands between such."""


@dataclass(frozen=True)
class HalfConvert:
    """Converts all nodes that the target can run in the type, in nested graphs too; bodies of functions stay float32.

    Attributes:
        kind: The type.
        exclude: Shell-style patterns of node names, or op types, that stay float32.
    """

    name: ClassVar[str] = "convert-half"
    lossy: ClassVar[bool] = True

    kind: Half = "float16"
    exclude: tuple[str, ...] = ()

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Converts the nodes; ``changes`` counts them.

        Raises:
            UsageError: An exclusion pattern matches no node.
            ModelError: The operator set is too old and cannot be converted.
        """
        excluded(nodes(model), self.exclude)
        beyond = [n for n in nodes(model) if any(word in n.op_type for word in NO_TENSORS)]
        if beyond:
            # Shape inference gives what they make the type of its elements.
            reason = "the model computes with sequences or optional values, whose types cannot be changed"
            return PassResult(model, 0, (Note(label(beyond[0]), "float", reason),))
        made = model.clone()
        if opset(made):
            made = raise_opset(made, OPSETS[self.kind])
        infer_shapes(made)
        chosen, notes = self._choose(made, ctx)
        if not chosen:
            return PassResult(model, 0, notes)
        Casts(made, ir.DataType[self.kind.upper()], chosen).write()
        RemoveNoOps().run(made, ctx)
        return PassResult(made, len(chosen), notes)

    def _choose(self, model: Model, ctx: Context) -> tuple[dict[ir.Node, Slots], tuple[Note, ...]]:
        """The nodes to convert, and the others that compute on floats with the reason."""
        graphs = (model.graph, *model.graph.subgraphs())
        every = [node for graph in graphs for node in graph if _has_floats(node) and tensor_of(node.outputs[0]) is None]
        skip = excluded(every, self.exclude, strict=False)
        support, version = find_support(self.kind, ctx.target), opset(model)
        whole = becoming_integers(every)
        chosen: dict[ir.Node, Slots] = {}
        why: dict[ir.Node, str] = {}
        for node in every:
            slots = "excluded" if node in skip else support.slots(node, version)
            if isinstance(slots, Slots) and node in whole:
                slots = "it computes what becomes an integer"
            if isinstance(slots, Slots):
                chosen[node] = slots
            else:
                why[node] = slots
        if self.kind == "float16":
            largest = largest_values(model, _visible(model, chosen), ctx)
            for node in list(chosen):
                reason = range_reason(node, largest)
                if reason is not None:
                    why[node] = reason
                    del chosen[node]
        for node in _without_layer(chosen):
            why[node] = f"there is no layer beside it that gains from {self.kind}"
            del chosen[node]
        return chosen, tuple(Note(label(node), "float", reason) for node, reason in why.items())


def _has_floats(node: ir.Node) -> bool:
    return any(v is not None and v.dtype == ir.DataType.FLOAT for v in (*node.inputs, *node.outputs))


def _visible(model: Model, chosen: Iterable[ir.Node]) -> list[str]:
    """The float inputs and computed values of the main graph that the nodes take or give."""
    values = [v for n in chosen if n.graph is model.graph for v in (*n.inputs, *n.outputs) if v is not None]
    fed = {v for v in model.graph.inputs if v.name not in model.graph.initializers}  # the others have a default
    own = {v for node in model.graph for v in node.outputs} | fed
    seen = [v for v in values if v in own and v.dtype == ir.DataType.FLOAT and tensor_of(v) is None]
    return [name for name in dict.fromkeys(v.name for v in seen) if name]


def _without_layer(chosen: dict[ir.Node, Slots]) -> list[ir.Node]:
    """The nodes of those groups, connected by values of the type, that hold no layer."""
    group: dict[ir.Node, ir.Node] = {node: node for node in chosen}

    def root(node: ir.Node) -> ir.Node:
        while group[node] is not node:
            group[node] = group[group[node]]
            node = group[node]
        return node

    for node, slots in chosen.items():
        for index in slots.outputs:
            for use in node.outputs[index].uses():
                if use.node in chosen and use.idx in chosen[use.node].inputs:
                    group[root(use.node)] = root(node)
    layers = Counter(root(node) for node in chosen if is_op(node, *LAYERS))
    return [node for node in chosen if not layers[root(node)]]
