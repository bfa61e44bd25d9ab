"""Gemm in the form that has integer kernels: data as they come, factors and bias in the constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import FLOATS, array_of, int_attribute, is_op, reason_not_constant, scopes, tensor_of

__all__ = ["PlainGemm"]

FREE_BIAS = 7
"""The first opset in which a bias is broadcast without an attribute."""
OPTIONAL_BIAS = 11
"""The first opset in which the bias may be missing."""


@dataclass(frozen=True)
class PlainGemm:
    """Gemm with a constant weight: ``alpha`` goes into it, ``beta`` into a constant bias.

    ``transA`` becomes a Transpose; a bias that is one number is spelled out; what is no value for each column (or not
    constant) becomes an Add behind.
    """

    name: ClassVar[str] = "plain-gemm"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites them; each Gemm is one change."""
        del ctx
        editor, count, notes = Editor(model), 0, list[Note]()
        for graph, opset in scopes(model):
            for node in list(graph):
                if not is_op(node, "Gemm"):
                    continue
                reason = _why_not(node, opset)
                if reason is not None:
                    notes.append(Note(label(node), "kept", reason))
                elif _rewrite(editor, node, opset):
                    count += 1
        return PassResult(model, count, tuple(notes))


def _why_not(node: ir.Node, opset: int) -> str | None:
    if opset < FREE_BIAS:
        return f"Gemm of opset {opset} is older than {FREE_BIAS}"
    if any(a.is_ref() for a in node.attributes.values()):
        return "an attribute is decided by the caller of the function"
    tensor = tensor_of(node.inputs[1])
    if tensor is None:
        return f"its weight {reason_not_constant(node.inputs[1])}"
    return None if tensor.dtype in FLOATS else "its weight is no float"


def _rewrite(editor: Editor, node: ir.Node, opset: int) -> bool:
    """Whether there was something to do."""
    changed = False
    base = label(node)
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    array, added = array_of(weight), None if bias is None else array_of(bias)
    data = node.inputs[0]
    if array is None or data is None:
        return False
    if int_attribute(node, "transA", 0):
        turned = editor.insert(
            "Transpose", [data], before=node, base=f"{base}_data", attributes=[ir.AttrInt64s("perm", [1, 0])]
        )
        node.replace_input_with(0, turned)
        del node.attributes["transA"]
        changed = True
    if alpha != 1.0:
        scaled = (array.astype(np.float64) * alpha).astype(array.dtype)
        node.replace_input_with(1, editor.add_constant(f"{base}_weight", scaled, before=node))
        del node.attributes["alpha"]
        changed = True
    columns = array.shape[0 if int_attribute(node, "transB", 0) else 1]
    if added is not None and (added.size == 1 or added.shape in ((columns,), (1, columns))):
        if beta != 1.0 or added.shape not in ((columns,), (1, columns)):
            row = np.broadcast_to((added.astype(np.float64) * beta).astype(added.dtype).reshape(-1), (columns,))
            node.replace_input_with(2, editor.add_constant(f"{base}_bias", row.copy(), before=node))
            node.attributes.pop("beta", None)
            changed = True
    elif bias is not None and opset >= OPTIONAL_BIAS:
        _add_behind(editor, node, bias, beta, base)
        changed = True
    if changed:
        clear_unused([weight, bias])
    return changed


def _add_behind(editor: Editor, node: ir.Node, bias: ir.Value, beta: float, base: str) -> None:
    """``Gemm(x, w, c)`` as ``Gemm(x, w) + beta * c``; the sum takes the place of the old result."""
    attributes = [a for name, a in node.attributes.items() if name != "beta"]
    product = ir.node("Gemm", list(node.inputs[:2]), {a.name: a for a in attributes}, name=editor.fresh_name(base))
    product.outputs[0].name = editor.fresh_name(f"{base}_product")
    product.outputs[0].type = node.outputs[0].type
    graph_of(node).insert_before(node, product)
    if beta != 1.0:
        dtype = bias.dtype or node.outputs[0].dtype or ir.DataType.FLOAT
        factor = editor.add_constant(f"{base}_beta", np.array(beta, dtype.numpy()), before=node)
        bias = editor.insert("Mul", [bias, factor], before=node, base=f"{base}_scaled")
    total = editor.insert("Add", [product.outputs[0], bias], before=node, base=f"{base}_sum")
    total.type, total.shape = node.outputs[0].type, node.outputs[0].shape
    name = node.name
    editor.replace_node(node, [total])
    node.name, product.name = None, name or base
