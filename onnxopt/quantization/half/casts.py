"""Changes the type of values, and puts one Cast where a value is wanted in the other type."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of
from onnxopt.core.query import Model
from onnxopt.core.tensors import read
from onnxopt.passes.constants import is_op, tensor_of
from onnxopt.quantization.half.support import Slots

__all__ = ["Casts"]

FLOAT = ir.DataType.FLOAT


class Casts:
    """Rewrites one model; mutable because it holds the casts that are there already.

    Args:
        model: The model; its values have types.
        kind: The 16-bit type.
        chosen: Nodes that are to compute in it, and which of their values are to be of it.
    """

    def __init__(self, model: Model, kind: ir.DataType, chosen: Mapping[ir.Node, Slots]) -> None:
        self.model, self.kind, self.chosen = model, kind, chosen
        self.edit = Editor(model)
        self.half = {node.outputs[i] for node, slots in chosen.items() for i in slots.outputs}
        self.made: dict[tuple[ir.Value, int], ir.Value] = {}
        """The other form of a value; of constants one for each graph that reads it."""

    def write(self) -> None:
        """Rewrites attributes, then types, then what each node reads."""
        readers = [node for graph in (self.model.graph, *self.model.graph.subgraphs()) for node in graph]
        for node in self.chosen:
            self._retype(node)
        for value in self.half:
            value.type = ir.TensorType(self.kind)
        for value in list(self.half):
            if value.is_graph_output():
                self._keep_output(value)
        replaced: dict[ir.Value, None] = {}
        for node in readers:
            slots = self.chosen.get(node)
            for index, value in enumerate(node.inputs):
                if value is None or not (value in self.half or value.dtype == FLOAT):
                    continue
                wanted = slots is not None and index in slots.inputs
                if wanted != (value in self.half):
                    node.replace_input_with(index, self._other(value, node))
                    replaced[value] = None
        clear_unused(replaced)

    def _retype(self, node: ir.Node) -> None:
        """The attributes that say the type of an output."""
        if is_op(node, "Cast") and self.chosen[node].outputs:
            node.attributes["to"] = ir.AttrInt64("to", self.kind.value)
        elif is_op(node, "ConstantOfShape"):
            given = node.attributes.get("value")
            array = np.zeros(1, np.float32) if given is None else read(given.as_tensor())
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(self.kind.numpy())))

    def _other(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """``value`` in the other type."""
        tensor = tensor_of(value)
        key = (value, 0 if tensor is None else id(reader.graph))
        if key not in self.made:
            if tensor is not None:
                array = read(tensor).astype(self.kind.numpy())
                self.made[key] = self.edit.add_constant(f"{value.name}_{self.kind.name.lower()}", array, before=reader)
            else:
                self.made[key] = self._cast(value)
        return self.made[key]

    def _cast(self, value: ir.Value) -> ir.Value:
        """A Cast right behind what makes ``value``, or at the start of the graph that it enters."""
        to = FLOAT if value in self.half else self.kind
        base = f"{value.name}_{to.name.lower()}"
        name = self.edit.fresh_name(f"{base}_Cast")
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.value)], num_outputs=1, name=name)
        made = node.outputs[0]
        made.name, made.type, made.shape = self.edit.fresh_name(base), ir.TensorType(to), value.shape
        producer = value.producer()
        if producer is not None:
            graph_of(producer).insert_after(producer, node)
            return made
        graph = self._entered(value)
        if len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
        return made

    def _entered(self, value: ir.Value) -> ir.Graph:
        graph = value.graph
        return graph if isinstance(graph, ir.Graph) else self.model.graph

    def _keep_output(self, value: ir.Value) -> None:
        """Lets a graph output keep its name and type: a Cast makes it."""
        producer = value.producer()
        if producer is None:
            raise ValueError(f"{value.name!r} is made by no node")
        name = value.name
        value.name = self.edit.fresh_name(f"{name}_{self.kind.name.lower()}")
        made = self._cast(value)
        outputs = graph_of(producer).outputs
        for index, output in enumerate(outputs):
            if output is value:
                outputs[index] = made
        made.name = name
        self.made[value, 0] = made
