"""Clip from zero to a limit becomes Relu where the limit is rarely reached, so that scales can move past it.

A positive scale for each channel passes a Relu, but not a limit that all channels share. Source: Nagel et al. 2019,
https://arxiv.org/abs/1906.04721, section 5.1.1 (ReLU6 is replaced by ReLU before equalization).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.errors import DataError
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op
from onnxopt.quantization.select import COMPUTE
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap

__all__ = ["ClipToRelu"]


@dataclass(frozen=True)
class ClipToRelu:
    """Replaces Clip(0, limit) behind a Conv, Gemm or MatMul by Relu.

    Attributes:
        cut: Largest share of the signal (energy of what the limit cuts off, over that of what it lets pass) that the
            Clip may cut on the calibration data.
    """

    name: ClassVar[str] = "clip-to-relu"
    lossy: ClassVar[bool] = True

    cut: float = 1e-3

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Replaces the Clips whose limit is rarely reached.

        Raises:
            DataError: There are no data to observe.
        """
        if ctx.data is None:
            raise DataError("the limits need data to be observed on", where=self.name, fix="give --data")
        data = ctx.data

        def samples() -> Iterator[Feeds]:
            return (sample.feeds for sample in data)

        limits = {value.name or "": (node, limit) for node, value, limit in _clips(model)}
        lost, kept = dict.fromkeys(limits, 0.0), dict.fromkeys(limits, 0.0)
        for values in tap(model, list(limits), samples, ctx.target, ctx.workdir):
            for name, array in values.items():
                over = np.maximum(array - limits[name][1], 0)
                lost[name] += float(np.square(over, dtype=np.float64).sum())
                kept[name] += float(np.square(np.clip(array, 0, limits[name][1]), dtype=np.float64).sum())
        editor, count, notes = Editor(model), 0, list[Note]()
        for name, (node, limit) in limits.items():
            share = lost[name] / kept[name] if kept[name] > 0 else 0.0
            if not share <= self.cut:
                notes.append(Note(label(node), "kept", f"its limit {limit:g} cuts off {share:.2%} of the signal"))
                continue
            bounds = list(node.inputs[1:])
            relu = editor.insert("Relu", [node.inputs[0]], before=node, base=f"{node.outputs[0].name}_relu")
            relu.type, relu.shape = node.outputs[0].type, node.outputs[0].shape
            editor.replace_node(node, [relu])
            clear_unused(bounds)
            count += 1
        return PassResult(model, count, tuple(notes))


def _clips(model: Model) -> Iterator[tuple[ir.Node, ir.Value, float]]:
    """The Clips from zero behind linear operators, what they read, and their upper limits."""
    for node in model.graph:
        value = node.inputs[0] if is_op(node, "Clip") else None
        if value is None or not is_op(value.producer(), *COMPUTE):
            continue
        low, high = _bound(node, 1, "min"), _bound(node, 2, "max")
        if low == 0 and high is not None and 0 < high < np.inf:
            yield node, value, high


def _bound(node: ir.Node, index: int, attribute: str) -> float | None:
    if attribute in node.attributes:
        return None if node.attributes[attribute].is_ref() else node.attributes[attribute].as_float()
    array = array_of(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None or array.size != 1 or array.dtype != np.float32 else float(array.reshape(-1)[0])
