"""ConvTranspose whose patches do not overlap as a 1x1 Conv and DepthToSpace: integer kernels have only the latter.

With kernel = stride = k every input pixel makes a k x k patch of its own, ``y[o, ki+u, kj+v] = sum_c x[c, i, j] *
w[c, o, u, v] + b[o]``: a Conv with k * k * out channels, whose channel ``(u * k + v) * out + o`` DepthToSpace (DCR)
puts at ``(u, v)`` of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of, remove_node
from onnxopt.core.query import Model, constant, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op, reason_not_constant, scopes, single_reader, tensor_of

__all__ = ["ConvTransposeToConv"]

MODE_SINCE = 11
"""The first opset in which DepthToSpace has a mode; DCR is what older ones do."""
ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class ConvTransposeToConv:
    """ConvTranspose in two dimensions with kernel = stride, one group, no padding, and constant weights.

    A Relu or Clip behind it moves in front of DepthToSpace, where the Conv absorbs it.
    """

    name: ClassVar[str] = "conv-transpose-to-conv"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites them; each is one change."""
        del ctx
        editor, count, notes = Editor(model), 0, list[Note]()
        for graph, _ in scopes(model):
            for node in list(graph):
                if not is_op(node, "ConvTranspose"):
                    continue
                reason = _why_not(node)
                if reason is None:
                    _rewrite(editor, node)
                    count += 1
                else:
                    notes.append(Note(label(node), "kept", reason))
        return PassResult(model, count, tuple(notes))


def _why_not(node: ir.Node) -> str | None:
    if any(a.is_ref() for a in node.attributes.values()):
        return "an attribute is decided by the caller of the function"
    weight, bias = tensor_of(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None:
        return f"its weight {reason_not_constant(node.inputs[1])}"
    if bias is not None and tensor_of(bias) is None:
        return f"its bias {reason_not_constant(bias)}"
    kernel = [int(size) for size in weight.shape.numpy()[2:]]
    if len(kernel) != 2 or kernel[0] != kernel[1]:
        return "its kernel is not square"
    if list(node.attributes.get_ints("strides") or [1, 1]) != kernel:
        return "its patches overlap, or leave gaps"
    if node.attributes.get_int("group", 1) != 1:
        return "it has groups"
    if any(d != 1 for d in node.attributes.get_ints("dilations") or ()):
        return "its kernel is dilated"
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        return "its padding depends on the size of the output"
    if any(node.attributes.get_ints("pads") or ()) or any(node.attributes.get_ints("output_padding") or ()):
        return "it cuts off or pads the border"
    return None


def _rewrite(editor: Editor, node: ir.Node) -> None:
    weight, bias = array_of(node.inputs[1]), array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if weight is None:
        raise ValueError(f"{node.name!r} has no constant weight")
    channels, out, side, _ = weight.shape
    base = node.name = label(node)
    rows = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).reshape(side * side * out, channels, 1, 1)
    inputs = [node.inputs[0], editor.add_constant(f"{base}_weight", rows, before=node)]
    if bias is not None:
        inputs.append(editor.add_constant(f"{base}_bias", np.tile(bias, side * side), before=node))
    conv = ir.node("Conv", inputs, name=editor.fresh_name(f"{base}_conv"))
    conv.outputs[0].name = editor.fresh_name(f"{base}_patches")
    conv.outputs[0].type = node.outputs[0].type
    graph_of(node).insert_before(node, conv)
    value, last = conv.outputs[0], node
    follower = _activation_behind(node)
    if follower is not None:
        last = follower
        value = editor.insert(
            follower.op_type,
            [value, *follower.inputs[1:]],
            before=follower,
            base=f"{base}_activated",
            attributes=list(follower.attributes.values()),
        )
        value.type = conv.outputs[0].type
    attributes: list[ir.Attr] = [ir.AttrInt64("blocksize", side)]
    if any(version >= MODE_SINCE for graph, version in scopes(editor.model) if graph is graph_of(node)):
        attributes.append(ir.AttrString("mode", "DCR"))
    spread = value
    if side > 1:
        spread = editor.insert("DepthToSpace", [value], before=last, base=f"{base}_spread", attributes=attributes)
    spread.type, spread.shape = last.outputs[0].type, last.outputs[0].shape
    old = list(node.inputs[1:])
    editor.replace_node(last, [spread])
    node.name, conv.name = None, base
    if last is not node:
        remove_node(node)
    clear_unused(old)


def _activation_behind(node: ir.Node) -> ir.Node | None:
    """The Relu, or Clip by constants, that alone reads ``node``, in the same graph."""
    follower = single_reader(node.outputs[0])
    if follower is None or not is_op(follower, *ACTIVATIONS) or follower.graph is not node.graph:
        return None
    limits = follower.inputs[1:]
    is_first = follower.inputs[0] is node.outputs[0]
    return follower if is_first and all(v is None or constant(v) is not None for v in limits) else None
