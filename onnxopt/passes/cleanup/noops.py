"""Removes operators that return their input unchanged, bit for bit.

Identity; Dropout at inference; Cast to the type and Reshape to the shape it already has; Transpose that moves nothing;
Pad by zero; Mul and Div by 1, Sub of 0 (not Add of 0: it turns -0.0 into 0.0); Concat, Sum, Max and Min of one input.

Own code in place of ``IdentityEliminationPass`` of ``onnx_ir``, which loses the name of a graph output when the same
value already is another one, and makes a branch return a value of the outer graph, which ONNX Runtime refuses to load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, remove_node
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import KEEP, array_of, int_attribute, scopes, tensor_of
from onnxopt.passes.shapes import DerivedShapes

__all__ = ["RemoveNoOps"]


@dataclass(frozen=True)
class RemoveNoOps:
    """Operators that return their input unchanged, in all graphs and functions."""

    name: ClassVar[str] = "remove-no-ops"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Removes them; each node counts as one change."""
        del ctx
        editor, shapes, count, notes = Editor(model), DerivedShapes(model), 0, list[Note]()
        for graph, opset in scopes(model):
            for node in graph:
                if not _is_no_op(node, opset, shapes):
                    continue
                source, output = node.inputs[0], node.outputs[0]
                if source is None or not editor.can_replace(output, source):
                    reason = "the name of the graph output it makes would be lost"
                    notes.append(Note(label(node), "kept", reason))
                    continue
                editor.replace_value(output, source)
                remove_node(node)
                count += 1
        return PassResult(model, count, tuple(notes))


def _is_no_op(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    test = TESTS.get(node.op_type) if node.domain == "" else None
    if test is None or not node.inputs or node.inputs[0] is None or KEEP in node.metadata_props:
        return False
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    return test(node, opset, shapes)


def _dropout(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    del shapes
    if opset < 7:
        return int_attribute(node, "is_test", 0) == 1
    if opset < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = array_of(node.inputs[2])
    return training is not None and not training.any()


def _cast(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    del opset, shapes
    source = node.inputs[0]
    if source is None or not isinstance(source.type, ir.TensorType):
        return False
    return "to" in node.attributes and int_attribute(node, "to", 0) == source.type.dtype.value


def _reshape(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    if opset < 5 or int_attribute(node, "allowzero", 0) != 0:
        return False
    wanted, shape = array_of(node.inputs[1]), shapes.of(node.inputs[0])
    if wanted is None or shape is None or wanted.size != len(shape):
        return False
    unproven = [want for want, have in zip(wanted.tolist(), shape, strict=True) if want not in (0, have)]
    return unproven in ([], [-1])


def _transpose(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    del opset
    permutation = node.attributes.get("perm")
    if permutation is None:
        shape = shapes.of(node.inputs[0])
        return shape is not None and len(shape) < 2
    return not permutation.is_ref() and list(permutation.as_ints()) == sorted(permutation.as_ints())


def _pad(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    del shapes
    if opset >= 11:
        pads = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
        return pads is not None and not pads.any()
    attribute = node.attributes.get("pads")
    return opset >= 2 and attribute is not None and not attribute.is_ref() and not any(attribute.as_ints())


def _neutral(element: int) -> Callable[[ir.Node, int, DerivedShapes], bool]:
    def test(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
        other = tensor_of(node.inputs[1])
        if opset < 7 or other is None or other.size != 1 or other.dtype == ir.DataType.STRING:
            return False
        rank = shapes.of(node.inputs[0])
        if len(other.shape) > 0 and (rank is None or len(rank) < len(other.shape)):
            return False
        array = array_of(node.inputs[1])
        return array is not None and bool(np.all(array == element))

    return test


def _single(node: ir.Node, opset: int, shapes: DerivedShapes) -> bool:
    del opset, shapes
    return len(node.inputs) == 1


TESTS: Mapping[str, Callable[[ir.Node, int, DerivedShapes], bool]] = {
    "Identity": lambda node, opset, shapes: True,
    "Dropout": _dropout,
    "Cast": _cast,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Mul": _neutral(1),
    "Div": _neutral(1),
    "Sub": _neutral(0),
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
}
