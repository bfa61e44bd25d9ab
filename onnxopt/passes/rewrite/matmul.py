"""MatMul in the form that has integer kernels: a 2-D constant as the second operand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.names import has_unique_names
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import FLOATS, array_of, is_op, tensor_of

__all__ = ["PlainMatMul"]

MATRIX = 2


@dataclass(frozen=True)
class PlainMatMul:
    """MatMul by a constant with leading dimensions of size 1, or with the constant in front.

    ``W (1, ..., K, N)`` loses its leading dimensions; ``W @ x`` becomes ``transpose(transpose(x) @ transpose(W))``.
    """

    name: ClassVar[str] = "plain-matmul"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites them; each MatMul is one change."""
        del ctx
        found = [
            node
            for graph in (model.graph, *model.graph.subgraphs())
            for node in graph
            if is_op(node, "MatMul") and _operand(node) is not None
        ]
        if not found:
            return PassResult(model, 0)
        if not has_unique_names(model):
            return PassResult(model, 0, tuple(Note(label(n), "kept", "bodies share names of values") for n in found))
        copy = model.clone()
        infer_shapes(copy)
        inner = (copy.graph, *copy.graph.subgraphs())
        ranks = {v.name: v.shape for g in inner for v in g.inputs}
        ranks |= {v.name: v.shape for g in inner for n in g for v in n.outputs}
        editor, count, notes = Editor(model), 0, list[Note]()
        for node in found:
            index = _operand(node)
            data = None if index is None else node.inputs[1 - index]
            shape = None if data is None else ranks.get(data.name)
            reason = "the rank of its data is not known"
            if index is not None and data is not None and shape is not None:
                reason = _rewrite(editor, node, index, data, len(shape))
            if reason is None:
                count += 1
            else:
                notes.append(Note(label(node), "kept", reason))
        return PassResult(model, count, tuple(notes))


def _operand(node: ir.Node) -> int | None:
    """The index of the only constant operand that is not a plain matrix on the right; ``None``: there is none."""
    tensors = [tensor_of(value) for value in node.inputs]
    constant = [i for i, t in enumerate(tensors) if t is not None and t.dtype in FLOATS and len(t.shape) >= MATRIX]
    if len(constant) != 1 or all(t is not None for t in tensors):
        return None
    tensor = tensors[constant[0]]
    return None if tensor is None or (constant[0] == 1 and len(tensor.shape) == MATRIX) else constant[0]


def _rewrite(editor: Editor, node: ir.Node, index: int, data: ir.Value, rank: int) -> str | None:
    """``None`` when rewritten, else why not."""
    weight = node.inputs[index]
    array = array_of(weight)
    if array is None or weight is None:
        return "its weight is not constant"
    if any(size != 1 for size in array.shape[:-MATRIX]):
        return "its weight differs along the batch"
    if rank < max(array.ndim, MATRIX):
        return "its weight has more dimensions than its data"
    matrix: Array = array.reshape(array.shape[-MATRIX:])
    base = node.name = label(node)
    if index == 1:
        node.replace_input_with(1, editor.add_constant(f"{base}_weight", matrix, before=node))
    else:
        order = [ir.AttrInt64s("perm", [*range(rank - MATRIX), rank - 1, rank - MATRIX])]
        turned = editor.insert("Transpose", [data], before=node, base=f"{base}_data", attributes=order)
        right = editor.add_constant(f"{base}_weight", np.ascontiguousarray(matrix.T), before=node)
        product = editor.insert("MatMul", [turned, right], before=node, base=f"{base}_product")
        result = editor.insert("Transpose", [product], before=node, base=f"{base}_turned", attributes=order)
        product.type = turned.type = result.type = node.outputs[0].type
        result.shape = node.outputs[0].shape
        made = product.producer()
        editor.replace_node(node, [result])
        if made is not None:
            node.name, made.name = None, base
    clear_unused([weight])
    return None
