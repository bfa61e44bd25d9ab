"""MatMul and the bias behind it as one Gemm.

ONNX Runtime does this to float models by itself, before it looks for integer kernels; what is quantized in the old form
has a float bias then, and no integer kernel takes that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of, remove_node
from onnxopt.core.names import has_unique_names
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.core.shapes import infer_shapes
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op, reason_not_constant, single_reader, tensor_of

__all__ = ["MatMulAddToGemm"]

MIN_RANK = 2


@dataclass(frozen=True)
class MatMulAddToGemm:
    """MatMul by a 2-D constant followed by Add of one constant for each column.

    The data must have two dimensions, or sizes that are all known: rows are then joined in front and split behind.
    """

    name: ClassVar[str] = "matmul-add-to-gemm"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites them; each MatMul that goes is one change."""
        del ctx
        return self.apply(model)

    def apply(self, model: Model, skip: Collection[ir.Node] = frozenset()) -> PassResult:
        """What ``run`` does, but for the MatMul nodes in ``skip``."""
        found = [
            node
            for graph in (model.graph, *model.graph.subgraphs())
            for node in graph
            if is_op(node, "MatMul") and node not in skip and _bias_of(node) is not None
        ]
        if not found:
            return PassResult(model, 0)
        if not has_unique_names(model):
            return PassResult(model, 0, tuple(Note(label(n), "kept", "bodies share names of values") for n in found))
        copy = model.clone()
        infer_shapes(copy)
        shapes = {v.name: v.shape for v in copy.graph.inputs}
        shapes |= {v.name: v.shape for g in (copy.graph, *copy.graph.subgraphs()) for n in g for v in n.outputs}
        editor, count, notes = Editor(model), 0, list[Note]()
        for node in found:
            reason = _rewrite(editor, node, shapes)
            if reason is None:
                count += 1
            else:
                notes.append(Note(label(node), "kept", reason))
        return PassResult(model, count, tuple(notes))


def _bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add that alone reads a MatMul, in the same graph, and the index of its constant."""
    add = single_reader(node.outputs[0])
    if add is None or not is_op(add, "Add") or add.graph is not node.graph:
        return None
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    return None if tensor_of(add.inputs[index]) is None else (add, index)


def _rewrite(editor: Editor, node: ir.Node, shapes: dict[str | None, ir.Shape | None]) -> str | None:
    """``None`` when rewritten, else why not."""
    found, data, weight = _bias_of(node), node.inputs[0], node.inputs[1]
    tensor = tensor_of(weight)
    if found is None or data is None or weight is None:
        return "its output is used elsewhere"
    if tensor is None:
        return f"its weight {reason_not_constant(weight)}"
    if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != MIN_RANK:
        return "its weight is no matrix of float32"
    add, index = found
    rows, columns = (int(size) for size in tensor.shape.numpy())
    shape, bias = shapes.get(data.name), array_of(add.inputs[index])
    if shape is None or len(shape) < MIN_RANK or (len(shape) > MIN_RANK and not shape.is_static()):
        return "the shape of its data is not known"
    if bias is None or bias.size != columns or bias.shape[-1:] != (columns,) or bias.ndim > len(shape):
        return "what is added is not one value for each column"
    is_matrix = len(shape) == MIN_RANK
    base = node.name = label(node)  # its type changes, which an unnamed node's label has in it
    source = data if is_matrix else _reshaped(editor, data, (-1, rows), add, f"{base}_rows")
    flat = editor.add_constant(f"{base}_bias", bias.reshape(columns), before=add)
    gemm = ir.node("Gemm", [source, weight, flat], name=editor.fresh_name(f"{base}_gemm"))
    value = gemm.outputs[0]
    value.name = editor.fresh_name(f"{base}_gemm_out")
    value.type = add.outputs[0].type
    graph_of(add).insert_before(add, gemm)
    if not is_matrix:
        value = _reshaped(editor, value, (*(int(d) for d in shape.numpy()[:-1]), columns), add, f"{base}_split")
    value.type, value.shape = add.outputs[0].type, add.outputs[0].shape
    old = add.inputs[index]
    editor.replace_node(add, [value])
    clear_unused([old])
    node.name, gemm.name = None, base
    remove_node(node)
    return None


def _reshaped(editor: Editor, value: ir.Value, sizes: tuple[int, ...], before: ir.Node, base: str) -> ir.Value:
    shape = editor.add_constant(f"{base}_shape", np.array(sizes, np.int64), before=before)
    return editor.insert("Reshape", [value, shape], before=before, base=base)
