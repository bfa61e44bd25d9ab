"""Embedding tables in INT8 with one scale a row: a quarter of the size, for three small operators on what is looked up.

No kernel multiplies by a table, so this is for the size of the file and of the memory only. Operators are those of ONNX
itself: ``Gather`` of the codes, ``Cast``, ``Mul`` by the ``Gather`` of the scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.query import Model, constant, graphs, label
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array, borrow
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import int_attribute, is_op
from onnxopt.quantization.affine import quantize_array, weight_scale
from onnxopt.quantization.scheme import CPU_X86, PerAxis, QuantScheme

__all__ = ["QuantizeTables"]

SMALLEST = 1 << 16
"""Elements of a table that is worth it."""
MIN_COLUMNS = 16
"""With shorter rows the scales take too much of what the codes save."""


@dataclass(frozen=True)
class QuantizeTables:
    """Gather along axis 0 of a large constant float32 matrix, at all depths."""

    name: ClassVar[str] = "quantize-tables"
    lossy: ClassVar[bool] = True

    scheme: QuantScheme = CPU_X86

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites the lookups; each counts as one change."""
        del ctx
        editor, count, notes = Editor(model), 0, list[Note]()
        written: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = {}
        for graph in graphs(model):
            for node in list(graph):
                if not _is_lookup(node):
                    continue
                reason = _reason(node)
                if reason is not None:
                    notes.append(Note(label(node), "float", reason))
                    continue
                self._rewrite(editor, node, written)
                count += 1
        return PassResult(model, count, tuple(notes))

    def _rewrite(
        self, editor: Editor, node: ir.Node, written: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]]
    ) -> None:
        table, indices = node.inputs[0], node.inputs[1]
        tensor = constant(table)
        if table is None or tensor is None:
            raise ValueError(f"{node.name!r} looks nothing constant up")
        key = table, id(node.graph)
        if key not in written:
            with borrow(tensor) as array:
                scale = weight_scale(array, PerAxis(0), self.scheme.weights)
                used = np.where(scale > 0, scale, np.float32(1))
                codes: Array = quantize_array(array, used, 0, PerAxis(0), self.scheme.weights)
            written[key] = (
                editor.add_constant(f"{table.name}_quantized", codes, before=node),
                editor.add_constant(f"{table.name}_scale", scale.reshape(-1, 1), before=node),
            )
        base = node.outputs[0].name or "looked_up"
        codes_value, scales_value = written[key]
        axis = [ir.AttrInt64("axis", 0)]
        found = editor.insert("Gather", [codes_value, indices], before=node, base=f"{base}_codes", attributes=axis)
        to_float = [ir.AttrInt64("to", ir.DataType.FLOAT.value)]
        floats = editor.insert("Cast", [found], before=node, base=f"{base}_float", attributes=to_float)
        scale_value = editor.insert("Gather", [scales_value, indices], before=node, base=f"{base}_row", attributes=axis)
        result = editor.insert("Mul", [floats, scale_value], before=node, base=f"{base}_dequantized")
        result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        editor.replace_node(node, [result])
        clear_unused([table])


def _is_lookup(node: ir.Node) -> bool:
    tensor = constant(node.inputs[0]) if is_op(node, "Gather") else None
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= SMALLEST


def _reason(node: ir.Node) -> str | None:
    table = node.inputs[0]
    tensor = constant(table)
    if table is None or tensor is None:
        return "its table is not constant"
    if len(tensor.shape) != 2 or int_attribute(node, "axis", 0) != 0:
        return "it does not look up rows of a matrix"
    if int(tensor.shape.numpy()[1]) < MIN_COLUMNS:
        return "its rows are too short"
    if table.is_graph_output() or any(not _is_lookup(use.node) or use.idx for use in table.uses()):
        return "its table is also used in float, and two copies would make the model larger"
    if constant(node.inputs[1]) is not None:
        return "what it looks up is constant"
    with borrow(tensor) as array:
        return None if np.isfinite(array).all() else "its table holds NaN or infinity"
