"""Writes Gelu in the order of products that ONNX Runtime fuses into one kernel.

ONNX Runtime's GeluFusion knows ``x * (1 + erf(x / sqrt 2)) * 0.5`` and ``(0.5 * x) * (1 + erf(x / sqrt 2))``. Recent
exporters write ``x * (0.5 * (1 + erf(x / sqrt 2)))``, which then runs as five operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op, scopes, single_reader

__all__ = ["ReorderGelu"]

HALF = 0.5


@dataclass(frozen=True)
class ReorderGelu:
    """``x * (0.5 * (1 + erf(...)))`` becomes ``(x * (1 + erf(...))) * 0.5``; a factor of two is exact in any order."""

    name: ClassVar[str] = "reorder-gelu"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Reorders them; each Gelu counts as one change."""
        del ctx
        editor, count, notes = Editor(model), 0, list[Note]()
        for graph, _ in scopes(model):
            for node in list(graph):
                scaled = _scaled_by_half(node)
                if scaled is None:
                    continue
                half, curve = scaled
                reader = single_reader(node.outputs[0])
                if reader is None or not is_op(reader, "Mul") or reader.graph is not graph:
                    notes.append(Note(label(node), "kept", "half of 1 + erf is not read by one Mul only"))
                    continue
                data = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
                if data is None:
                    continue
                base = f"{reader.outputs[0].name}_doubled"
                product = editor.insert("Mul", [data, curve], before=reader, base=base)
                product.type, product.shape = reader.outputs[0].type, reader.outputs[0].shape
                reader.replace_input_with(0, product)
                reader.replace_input_with(1, half)
                graph.remove(node, safe=True)
                count += 1
        return PassResult(model, count, tuple(notes))


def _scaled_by_half(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The constant 0.5 and ``1 + erf(...)`` where ``node`` is their product."""
    if not is_op(node, "Mul"):
        return None
    for index in (0, 1):
        half, curve = node.inputs[index], node.inputs[1 - index]
        array = array_of(half)
        if half is None or curve is None or array is None or array.shape not in ((), (1,)):
            continue
        if float(array.reshape(-1)[0]) == HALF and _is_one_plus_erf(curve):
            return half, curve
    return None


def _is_one_plus_erf(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None or not is_op(producer, "Add") or single_reader(value) is None:
        return False
    for index in (0, 1):
        array, other = array_of(producer.inputs[index]), producer.inputs[1 - index]
        erf = None if other is None else other.producer()
        if array is not None and array.size == 1 and float(array.reshape(-1)[0]) == 1.0 and is_op(erf, "Erf"):
            return True
    return False
