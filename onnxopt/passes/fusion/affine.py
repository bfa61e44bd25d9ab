"""Folds Mul, Add, Sub and Div by a constant, one value a channel, into the linear operator in front of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op, scopes, tensor_of
from onnxopt.passes.fusion.linear import Affine, Linear, fold_affine, linear_before
from onnxopt.passes.shapes import DerivedShapes

__all__ = ["FoldAffine"]

OPERATORS = ("Add", "Div", "Mul", "Sub")
CONVOLUTIONS = ("Conv", "ConvTranspose")
"""ONNX Runtime itself fuses MatMul and Add; the channel axis of a Gemm is the last one, not axis 1 of any rank."""


@dataclass(frozen=True)
class FoldAffine:
    """Conv or ConvTranspose followed by Mul, Add, Sub or Div with a scalar or per-channel constant."""

    name: ClassVar[str] = "fold-affine"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Folds them; each operator that goes counts as one change."""
        del ctx
        editor, shapes, count, notes = Editor(model), DerivedShapes(model), 0, list[Note]()
        for graph, opset in scopes(model):
            if opset < 7:
                continue
            for node in graph:
                index = _convolution_input(node)
                if index is None:
                    continue
                reason = _fold(editor, node, index, shapes)
                if reason is None:
                    count += 1
                else:
                    notes.append(Note(label(node), "kept", reason))
        return PassResult(model, count, tuple(notes))


def _convolution_input(node: ir.Node) -> int | None:
    """Which of the two inputs is made by a convolution while the other is constant."""
    if not is_op(node, *OPERATORS):
        return None
    for index in (0, 1):
        value = node.inputs[index]
        if (
            value is not None
            and is_op(value.producer(), *CONVOLUTIONS)
            and tensor_of(node.inputs[1 - index]) is not None
        ):
            return index
    return None


def _fold(editor: Editor, node: ir.Node, index: int, shapes: DerivedShapes) -> str | None:
    """``None`` when folded, else why not."""
    linear = linear_before(node.inputs[index], node, shapes)
    if linear is None or isinstance(linear, str):
        return linear or "no convolution in front of it"
    constant = array_of(node.inputs[1 - index])
    if constant is None:
        return "its other input is not constant"
    channelwise = _per_channel(constant, linear)
    if channelwise is None:
        return f"its constant of shape {list(constant.shape)} is not one value a channel"
    affine = _affine(node.op_type, index, channelwise.astype(np.float64))
    return affine if isinstance(affine, str) else fold_affine(editor, linear, affine, node)


def _per_channel(constant: Array, linear: Linear) -> Array | None:
    """The constant as ``(channels,)`` or ``(1,)``; ``None`` when it does not broadcast along the channel axis alone."""
    if constant.ndim > linear.rank:
        return None
    shape = (1,) * (linear.rank - constant.ndim) + constant.shape
    if shape[1] not in (1, linear.channels) or any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return constant.reshape(-1)


def _affine(op_type: str, index: int, constant: Array) -> Affine | str:
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    match op_type:
        case "Add":
            return Affine(one, constant)
        case "Sub":
            return Affine(one, -constant) if index == 0 else Affine(-one, constant)
        case "Mul":
            return Affine(constant, zero)
        case _:
            if index == 1:
                return "it divides the constant by the convolution"
            if not constant.all():
                return "it divides by zero"
            return Affine(1 / constant, zero)
