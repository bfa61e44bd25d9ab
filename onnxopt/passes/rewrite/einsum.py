"""Einsum of one value and one constant as MatMul, which has integer kernels.

Letters of both operands that the result lacks are summed over; those of the value alone stay, those of the constant
alone are new: ``x (kept, summed) @ w (summed, new)``, with Transpose and Reshape around it where the order differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import FLOATS, array_of, is_op, scopes, tensor_of

__all__ = ["EinsumToMatMul"]


@dataclass(frozen=True)
class EinsumToMatMul:
    """Einsum with two operands, one of them constant, that share no letter with the result at once."""

    name: ClassVar[str] = "einsum-to-matmul"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites them; each Einsum is one change."""
        del ctx
        editor, count, notes = Editor(model), 0, list[Note]()
        for graph, _ in scopes(model):
            for node in list(graph):
                if not is_op(node, "Einsum"):
                    continue
                terms = _terms(node)
                if isinstance(terms, str):
                    notes.append(Note(label(node), "kept", terms))
                else:
                    _rewrite(editor, node, terms)
                    count += 1
        return PassResult(model, count, tuple(notes))


@dataclass(frozen=True)
class _Terms:
    """Letters of the equation.

    Attributes:
        constant: Index of the constant operand.
        value: Letters of the other operand.
        weight: Letters of the constant.
        result: Letters of the result.
    """

    constant: int
    value: str
    weight: str
    result: str

    @property
    def summed(self) -> str:
        return "".join(c for c in self.value if c in self.weight)

    @property
    def kept(self) -> str:
        """In the order of the result, which spares a Transpose."""
        return "".join(c for c in self.result if c in self.value)

    @property
    def new(self) -> str:
        return "".join(c for c in self.result if c in self.weight)


def _terms(node: ir.Node) -> _Terms | str:
    """The letters, or why the node has no MatMul form."""
    attribute = node.attributes.get("equation")
    if attribute is None or attribute.is_ref():
        return "its equation is decided by the caller of the function"
    equation = attribute.as_string().replace(" ", "")
    if len(node.inputs) != 2 or not re.fullmatch(r"[A-Za-z]+,[A-Za-z]+(->[A-Za-z]*)?", equation):
        return "it is no product of two operands with a letter for each dimension"
    operands, arrow, result = equation.partition("->")
    first, second = operands.split(",")
    if not arrow:
        letters = first + second
        result = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if any(len(set(term)) != len(term) for term in (first, second, result)):
        return "a letter is there twice"
    tensors = [tensor_of(value) for value in node.inputs]
    constant = [i for i, tensor in enumerate(tensors) if tensor is not None and tensor.dtype in FLOATS]
    if len(constant) != 1:
        return "not exactly one operand is constant"
    terms = _Terms(constant[0], *((first, second) if constant[0] else (second, first)), result)
    if any(c in result for c in terms.summed):
        return "its constant differs along the batch"
    if set(terms.value + terms.weight) - set(terms.summed) != set(result):
        return "it sums over a dimension of one operand alone"
    if not (terms.summed and terms.kept and terms.new):
        return "it is no product of matrices"
    return terms


def _rewrite(editor: Editor, node: ir.Node, terms: _Terms) -> None:
    data, weight = node.inputs[1 - terms.constant], node.inputs[terms.constant]
    array = array_of(weight)
    if data is None or array is None:
        raise ValueError(f"{node.name!r} has no data or constant")
    base = node.name = label(node)
    sizes = dict(zip(terms.weight, array.shape, strict=True))
    kept, summed, new = terms.kept, terms.summed, terms.new
    if all(c in terms.value[-len(summed) :] for c in summed):
        kept = terms.value[: -len(summed)]  # no Transpose in front; if the result has another order, one behind
    matrix = array.transpose([terms.weight.index(c) for c in summed + new])
    matrix = np.ascontiguousarray(matrix).reshape(int(np.prod([sizes[c] for c in summed])), -1)
    value = _ordered(editor, node, data, terms.value, kept + summed, f"{base}_data")
    if len(summed) > 1:
        value = _reshaped(editor, node, value, [0] * len(kept) + [matrix.shape[0]], f"{base}_joined")
    right = editor.add_constant(f"{base}_weight", matrix, before=node)
    value = editor.insert("MatMul", [value, right], before=node, base=f"{base}_product")
    product = value.producer()
    if len(new) > 1:
        value = _reshaped(editor, node, value, [0] * len(kept) + [sizes[c] for c in new], f"{base}_split")
    value = _ordered(editor, node, value, kept + new, terms.result, f"{base}_result")
    value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
    editor.replace_node(node, [value])
    if product is not None:
        node.name, product.name = None, base
    clear_unused([weight])


def _ordered(editor: Editor, node: ir.Node, value: ir.Value, have: str, want: str, base: str) -> ir.Value:
    if have == want:
        return value
    order = [ir.AttrInt64s("perm", [have.index(c) for c in want])]
    return editor.insert("Transpose", [value], before=node, base=base, attributes=order)


def _reshaped(editor: Editor, node: ir.Node, value: ir.Value, sizes: list[int], base: str) -> ir.Value:
    shape = editor.add_constant(f"{base}_shape", np.array(sizes, np.int64), before=node)
    return editor.insert("Reshape", [value, shape], before=node, base=base)
