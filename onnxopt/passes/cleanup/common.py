"""Computes equal expressions once.

Own code in place of ``CommonSubexpressionEliminationPass`` of ``onnx_ir``, which covers the main graph only, takes
attributes that refer to different function parameters for equal, and 0.0 and -0.0 as well, and does not know Bernoulli,
a training Dropout, or functions that draw random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, graphs
from onnxopt.core.tensors import content_key
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import is_random

__all__ = ["CommonSubexpressions", "attribute_key"]

PURE_DOMAINS = frozenset({"", "ai.onnx.ml"})
"""Operators of other domains may count, draw or log: they are left alone."""


@dataclass(frozen=True)
class CommonSubexpressions:
    """Nodes with the same operator, inputs and attributes, within each graph, branch, body and function."""

    name: ClassVar[str] = "common-subexpressions"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Removes the later of two equal nodes; each counts as one change."""
        del ctx
        editor, count = Editor(model), 0
        pure = _pure_functions(model)
        for graph in graphs(model):
            seen: dict[object, ir.Node] = {}
            for node in graph:
                if (node.domain not in PURE_DOMAINS and node.op_identifier() not in pure) or is_random(node):
                    continue
                key = _key(node)
                if key is None:
                    continue
                first = seen.setdefault(key, node)
                if first is not node and _can_merge(editor, node, first):
                    editor.replace_node(node, first.outputs)
                    count += 1
        return PassResult(model, count)


def _can_merge(editor: Editor, node: ir.Node, first: ir.Node) -> bool:
    """An Identity or Constant that only names a graph output is as cheap as the Identity that would replace it."""
    if node.op_type not in ("Identity", "Constant"):
        return True
    return all(editor.can_replace(old, new) for old, new in zip(node.outputs, first.outputs, strict=True))


def _pure_functions(model: Model) -> set[ir.OperatorIdentifier]:
    impure = {key for key, function in model.functions.items() if any(is_random(node) for node in function.all_nodes())}
    while True:
        callers = {
            key
            for key, function in model.functions.items()
            if any(
                node.op_identifier() in impure
                or (node.domain not in PURE_DOMAINS and node.op_identifier() not in model.functions)
                for node in function.all_nodes()
            )
        }
        if callers <= impure:
            return set(model.functions) - impure
        impure |= callers


def _key(node: ir.Node) -> tuple[object, ...] | None:
    attributes: list[tuple[object, ...]] = []
    for name in sorted(node.attributes):
        attribute = attribute_key(node.attributes[name])
        if attribute is None:
            return None
        attributes.append((name, *attribute))
    present = tuple(bool(output.name) for output in node.outputs)
    return (node.op_identifier(), present, tuple(id(value) for value in node.inputs), tuple(attributes))


def attribute_key(attribute: ir.Attr) -> tuple[object, ...] | None:
    """Equal for two attributes exactly when their values are; ``None`` for those that hold graphs."""
    if attribute.is_ref():
        return ("ref", attribute.ref_attr_name, attribute.type)
    kinds = ir.AttributeType
    match attribute.type:
        case kinds.INT | kinds.STRING:
            return (attribute.type, attribute.value)
        case kinds.INTS | kinds.STRINGS:
            return (attribute.type, tuple(attribute.value))
        case kinds.FLOAT | kinds.FLOATS:
            return (attribute.type, np.asarray(attribute.value, np.float64).tobytes())
        case kinds.TENSOR:
            return (attribute.type, *content_key(attribute.as_tensor()))
        case _:
            return None
