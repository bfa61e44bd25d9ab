"""The only way passes edit graphs: fresh names, constants, replacement of values that keeps the model's signature.

What must hold after every edit: names are unique in the whole model (all graphs, bodies of control flow, functions);
a graph output keeps its name, type and place; nothing is removed that a graph output or a nested graph still reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, graphs

__all__ = ["Editor", "clear_unused", "graph_of", "nested_graphs", "remove_node"]

Array = np.ndarray[Any, Any]


class Editor:
    """Edits one model; holds the names in use, so that a fresh one costs no walk over the model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._names: set[str] = set()
        for graph in graphs(model):
            self._names.update(value.name or "" for value in [*graph.inputs, *graph.initializers.values()])
            for node in graph:
                self._names.add(node.name or "")
                self._names.update(output.name or "" for output in node.outputs)
        self._function_graphs = {
            id(graph)
            for function in model.functions.values()
            for graph in (function.graph, *function.graph.subgraphs())
        }

    def fresh_name(self, base: str) -> str:
        """``base`` or ``base_1``, ``base_2``, ...: the first that nothing in the model has; it is then taken."""
        name, count = base or "value", 0
        while name in self._names:
            count += 1
            name = f"{base or 'value'}_{count}"
        self._names.add(name)
        return name

    def add_constant(self, base: str, data: Array, *, before: ir.Node, as_node: bool = False) -> ir.Value:
        """A new value that holds ``data`` and may be read by ``before`` and what follows it.

        It is an initializer, or a Constant node where ONNX has no initializers (functions) and
        where ``as_node`` asks for it (a graph output cannot take the name of an initializer).
        """
        graph = graph_of(before)
        name = self.fresh_name(base)
        tensor = _tensor(data, name)
        if as_node or id(graph) in self._function_graphs:
            node = ir.node("Constant", [], {"value": tensor}, num_outputs=1, name=self.fresh_name(f"{name}_node"))
            value = node.outputs[0]
            value.name = name
            graph.insert_before(before, node)
        else:
            value = ir.Value(name=name, const_value=tensor)
            graph.register_initializer(value)
        value.type = ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(data.shape)
        return value

    def insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        before: ir.Node,
        base: str,
        attributes: Sequence[ir.Attr] = (),
    ) -> ir.Value:
        """The output of a new node of the default domain that is put in front of ``before``."""
        node = ir.Node("", op_type, inputs, attributes, num_outputs=1, name=self.fresh_name(f"{base}_{op_type}"))
        node.outputs[0].name = self.fresh_name(base)
        graph_of(before).insert_before(before, node)
        return node.outputs[0]

    def can_replace(self, old: ir.Value, new: ir.Value) -> bool:
        """Whether ``replace_value`` needs no Identity: ``old`` is no graph output, or ``new`` can take its name."""
        if not old.is_graph_output():
            return True
        producer, source = old.producer(), new.producer()
        return (
            producer is not None and source is not None and source.graph is producer.graph and not new.is_graph_output()
        )

    def replace_value(self, old: ir.Value, new: ir.Value) -> None:
        """Lets all readers of ``old`` read ``new``; a graph output keeps its name, type and shape.

        Where ``old`` is a graph output, ``new`` takes its name if it can (a node of the same graph makes it, and it is
        no graph output yet); otherwise an Identity after ``old``'s producer keeps the name.
        """
        if old is new:
            return
        if not old.is_graph_output():
            old.replace_all_uses_with(new)
            return
        producer = old.producer()
        if producer is None:
            raise ValueError(f"{old.name!r} is an input or initializer that is also an output: it cannot be replaced")
        graph = graph_of(producer)
        name, type_, shape = old.name, old.type, old.shape
        if self.can_replace(old, new):
            target = new
        else:
            identity = ir.Node("", "Identity", [new], num_outputs=1, name=self.fresh_name(f"{name}_identity"))
            graph.insert_after(producer, identity)
            target = identity.outputs[0]
        old.replace_all_uses_with(target, replace_graph_outputs=True)
        old.name = self.fresh_name(f"{name}_replaced")
        target.name, target.type, target.shape = name, type_, shape

    def replace_node(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Lets readers of the node's outputs read ``values`` (one for each output), then removes the node."""
        for output, value in zip(node.outputs, values, strict=True):
            self.replace_value(output, value)
        remove_node(node)


def _tensor(data: Array, name: str) -> ir.TensorProtocol:
    if data.dtype.kind not in "OSU":
        return ir.tensor(data, name=name)
    items = [item if isinstance(item, bytes) else str(item).encode() for item in data.ravel().tolist()]
    return ir.StringTensor(items, shape=ir.Shape(data.shape), name=name)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that ``node`` is in."""
    if node.graph is None:
        raise ValueError(f"node {node.name!r} is in no graph")
    return node.graph


def remove_node(node: ir.Node) -> int:
    """Removes a node that nothing reads, with the constants that only it read; the number of things removed.

    ``onnx_ir`` leaves the nodes of its nested graphs registered as readers of outer values; here they let go.
    """
    read = list(node.inputs)
    for attribute in node.attributes.values():
        for graph in nested_graphs(attribute):
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                read += inner.inputs
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
    graph_of(node).remove(node, safe=True)
    return 1 + clear_unused(read)


def nested_graphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    """The graphs that an attribute holds: the branches of an If, the body of a Loop or Scan."""
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()


def clear_unused(values: Iterable[ir.Value | None]) -> int:
    """Removes those of ``values`` that are constants (initializers, Constant nodes) without a reader; their number."""
    count = 0
    for value in values:
        if value is None or value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        producer = value.producer()
        if value.is_initializer() and value.graph is not None and value.name is not None:
            del value.graph.initializers[value.name]
            count += 1
        elif producer is not None and producer.op_type == "Constant" and producer.graph is not None:
            producer.graph.remove(producer, safe=True)
            count += 1
    return count
