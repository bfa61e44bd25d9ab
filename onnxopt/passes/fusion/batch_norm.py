"""Folds BatchNormalization at inference into the Conv, ConvTranspose, Gemm or MatMul in front of it.

``y = (x - mean) / sqrt(var + epsilon) * scale + B`` (ONNX operators, BatchNormalization-15) is an affine map of each
channel. In training mode the statistics come from the batch: before opset 14 that is said by further outputs, since
then by ``training_mode``, which ``onnxscript``'s own rule ignores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, int_attribute, is_op, reason_not_constant, scopes
from onnxopt.passes.fusion.linear import Affine, fold_affine, linear_before
from onnxopt.passes.shapes import DerivedShapes

__all__ = ["FoldBatchNorm"]

PARAMETERS = ("scale", "B", "mean", "var")


@dataclass(frozen=True)
class FoldBatchNorm:
    """Conv, ConvTranspose, Gemm or MatMul followed by BatchNormalization."""

    name: ClassVar[str] = "fold-batch-norm"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Folds them; each BatchNormalization that goes counts as one change."""
        del ctx
        editor, shapes, count, notes = Editor(model), DerivedShapes(model), 0, list[Note]()
        for graph, opset in scopes(model):
            for node in graph:
                if not is_op(node, "BatchNormalization"):
                    continue
                reason = _fold(editor, node, opset, shapes)
                if reason is None:
                    count += 1
                else:
                    notes.append(Note(label(node), "kept", reason))
        return PassResult(model, count, tuple(notes))


def _fold(editor: Editor, node: ir.Node, opset: int, shapes: DerivedShapes) -> str | None:
    """``None`` when folded, else why not."""
    mode = _inference(node, opset)
    if mode is not None:
        return mode
    linear = linear_before(node.inputs[0], node, shapes)
    if linear is None:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        return f"no linear operator in front of it but {producer.op_type if producer else 'an input'}"
    if isinstance(linear, str):
        return linear
    arrays: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for name, value in zip(PARAMETERS, node.inputs[1:], strict=True):
        array = array_of(value)
        if array is None:
            return f"its {name} {reason_not_constant(value)}"
        if array.shape != (linear.channels,):
            return f"its {name} has shape {list(array.shape)}, not one value a channel"
        arrays.append(array.astype(np.float64))
    scale, shift, mean, variance = arrays
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
    return fold_affine(editor, linear, Affine(factor, shift - mean * factor), node)


def _inference(node: ir.Node, opset: int) -> str | None:
    """``None`` when the node normalizes by its stored statistics, else why not (or why that is not known)."""
    if opset < 7:
        return f"BatchNormalization of opset {opset} is older than 7"
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "an attribute is decided by the caller of the function"
    if int_attribute(node, "training_mode", 0) != 0:
        return "it is in training mode"
    if any(output.name for output in node.outputs[1:]):
        return "it has further outputs, which means training mode"
    if int_attribute(node, "spatial", 1) != 1:
        return "it is not spatial: it has statistics for each position"
    return None
