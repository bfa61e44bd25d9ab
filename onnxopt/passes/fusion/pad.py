"""Folds a Pad by zeros into the Conv behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.edit import Editor, remove_node
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op, reason_not_constant, scopes, single_reader, tensor_of

__all__ = ["FoldPad"]


@dataclass(frozen=True)
class FoldPad:
    """Pad (constant mode, value 0, nothing cut off, spatial axes only) followed by Conv."""

    name: ClassVar[str] = "fold-pad"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Folds them; each Pad that goes counts as one change."""
        del ctx
        editor, count, notes = Editor(model), 0, list[Note]()
        for graph, opset in scopes(model):
            for node in graph:
                pad = node.inputs[0].producer() if is_op(node, "Conv") and node.inputs[0] is not None else None
                if pad is None or not is_op(pad, "Pad"):
                    continue
                reason = _fold(editor, pad, node, opset)
                if reason is None:
                    count += 1
                else:
                    notes.append(Note(label(pad), "kept", reason))
        return PassResult(model, count, tuple(notes))


def _fold(editor: Editor, pad: ir.Node, conv: ir.Node, opset: int) -> str | None:
    """``None`` when folded, else why not."""
    if pad.graph is not conv.graph:
        return "the Conv is in another graph"
    if single_reader(pad.outputs[0]) is None:
        return "its output is used elsewhere"
    if any(a.is_ref() for node in (pad, conv) for a in node.attributes.values()):
        return "an attribute is decided by the caller of the function"
    if pad.attributes.get_string("mode", "constant") != "constant":
        return "it does not pad by a constant"
    weight = tensor_of(conv.inputs[1])
    if weight is None:
        return f"the weight of the Conv {reason_not_constant(conv.inputs[1])}"
    padding = _padding(pad, len(weight.shape), opset)
    if isinstance(padding, str):
        return padding
    begins, ends = padding
    if any(size < 0 for size in (*begins, *ends)):
        return "it cuts off instead of padding"
    if any((*begins[:2], *ends[:2])):
        return "it pads the batch or the channels"
    automatic = conv.attributes.get_string("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID"):
        return f"the Conv pads by itself ({automatic})"
    own = conv.attributes.get_ints("pads") if automatic == "NOTSET" else None
    added = (*begins[2:], *ends[2:])
    total = [a + b for a, b in zip(own or [0] * len(added), added, strict=True)]
    conv.attributes.pop("auto_pad", None)
    conv.attributes["pads"] = ir.AttrInt64s("pads", total)
    source = pad.inputs[0]
    assert source is not None
    editor.replace_value(pad.outputs[0], source)
    remove_node(pad)
    return None


def _padding(pad: ir.Node, rank: int, opset: int) -> tuple[list[int], list[int]] | str:
    """Sizes before and after each axis: attributes below opset 11, then inputs, since 18 with axes."""
    if opset < 2:
        return f"Pad of opset {opset} is older than 2"
    if opset < 11:
        sizes = list(pad.attributes.get_ints("pads") or ())
        if pad.attributes.get_float("value", 0.0) != 0.0:
            return "it does not pad by zero"
        axes = list(range(rank))
    else:
        inputs = [*pad.inputs[1:], None, None, None][:3]
        array = array_of(inputs[0])
        if array is None:
            return "its padding is not constant"
        sizes = [int(size) for size in array.tolist()]
        fill = array_of(inputs[1])
        if inputs[1] is not None and (fill is None or fill.any()):
            return "it does not pad by zero"
        chosen = array_of(inputs[2])
        if inputs[2] is not None and chosen is None:
            return "its axes are not constant"
        axes = list(range(rank)) if chosen is None else [int(axis) % rank for axis in chosen.tolist()]
    if len(sizes) != 2 * len(axes):
        return f"its {len(sizes)} sizes do not fit a rank of {rank}"
    begins, ends = [0] * rank, [0] * rank
    for axis, begin, end in zip(axes, sizes[: len(axes)], sizes[len(axes) :], strict=True):
        begins[axis], ends[axis] = begin, end
    return begins, ends
