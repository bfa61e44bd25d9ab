"""Adds nodes to the end of a graph: what builds new computation behind or around an existing one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import opset
from onnxopt.core.tensors import Array

__all__ = ["Drawing"]

AXES_AS_INPUT = 18
Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.Graph


class Drawing:
    """Draws into one graph of a model, with fresh names.

    Args:
        editor: Of the model that the graph belongs, or is to belong, to.
        graph: Where nodes and constants go.
        base: What their names begin with.
    """

    def __init__(self, editor: Editor, graph: ir.Graph, base: str) -> None:
        self.editor, self.graph, self.base = editor, graph, base

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """The output of a new node."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Attribute
    ) -> tuple[ir.Value, ...]:
        """The outputs of a new node that has several."""
        given = [ir.convenience.convert_attribute(name, value) for name, value in attributes.items()]
        name = self.editor.fresh_name(f"{self.base}_{op_type}")
        node = ir.Node(domain, op_type, inputs, given, num_outputs=outputs, name=name)
        for value in node.outputs:
            value.name = self.editor.fresh_name(f"{self.base}_{op_type.lower()}")
        self.graph.append(node)
        return tuple(node.outputs)

    def reduce(self, op_type: str, value: ir.Value, axis: int, *, keepdims: bool = False) -> ir.Value:
        """The output of a reduction over one axis: an attribute up to opset 17, an input since."""
        if opset(self.editor.model) < AXES_AS_INPUT:
            return self.op(op_type, value, axes=[axis], keepdims=int(keepdims))
        return self.op(op_type, value, self.constant([axis]), keepdims=int(keepdims))

    def constant(
        self, data: Array | int | float | Sequence[int] | Sequence[float], dtype: type | None = None
    ) -> ir.Value:
        """An initializer with these values: int64 for integers, float32 for other numbers, an array as it is."""
        array: Array = np.asarray(data)
        if dtype is not None:
            array = array.astype(dtype)
        elif not isinstance(data, np.ndarray):
            array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        name = self.editor.fresh_name(f"{self.base}_constant")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        self.graph.register_initializer(value)
        return value
