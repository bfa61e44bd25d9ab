"""Values inside the bodies of If, Loop and Scan, handed outwards level by level until they are outputs of the model.

If: the branch that is taken gives the value, the other one an empty tensor. Loop: the value of every iteration is
flattened and put into a sequence that the loop carries, so that shapes may differ from one iteration to the next;
outside they are joined to one dimension. Scan carries no sequences, so it is first written as a Loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of, nested_graphs
from onnxopt.core.query import Model
from onnxopt.run.scan import scan_as_loop

__all__ = ["bodies", "expose", "repeated"]


def expose(model: Model, names: Collection[str]) -> dict[str, str]:
    """Makes the named values outputs of the model, in place.

    Args:
        model: A model with inferred shapes and, where values in bodies are named, opset 13 or above.
        names: Names of values at any depth, each unique in the model.

    Returns:
        Name of a value -> name of the output that holds it: the value itself in the main graph and in branches that
        are taken (an empty tensor otherwise), flattened and joined over the iterations of a Loop or Scan. Values that
        cannot be handed out (those of local functions) are missing.
    """
    graph = model.graph
    found = _Exposer(model, names).lift(graph)
    present = {value.name for value in graph.outputs}
    graph.outputs.extend(value for value in dict.fromkeys(found.values()) if value.name not in present)
    return {name: value.name or "" for name, value in found.items()}


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs directly inside a node."""
    for attribute in node.attributes.values():
        yield from nested_graphs(attribute)


def repeated(model: Model) -> frozenset[str]:
    """Names of the values inside Loops and Scans: a run may compute them any number of times."""
    found: set[str] = set()
    for outer in ir.traversal.RecursiveGraphIterator(model.graph):
        if outer.op_type in ("Loop", "Scan"):
            for body in bodies(outer):
                found.update(v.name or "" for v in body.inputs)
                for node in ir.traversal.RecursiveGraphIterator(body):
                    found.update(v.name or "" for v in node.outputs)
    return frozenset(found)


class _Exposer:
    """Holds the editor of one model, so that fresh names stay fresh."""

    def __init__(self, model: Model, names: Collection[str]) -> None:
        self.edit = Editor(model)
        self.names = frozenset(names)

    def lift(self, graph: ir.Graph) -> dict[str, ir.Value]:
        """Name -> a value of ``graph`` that holds it, for all that are wanted of this graph and what is inside."""
        found: dict[str, ir.Value] = {}
        for node in list(graph):
            if node.domain == "" and self._is_wanted_inside(node):
                match node.op_type:
                    case "If":
                        found |= self._out_of_if(node)
                    case "Loop":
                        found |= self._out_of_loop(node)
                    case "Scan" if (loop := scan_as_loop(self.edit, node)) is not None:
                        found |= self._out_of_loop(loop)
                    case _:
                        pass
        own = [*graph.inputs, *(value for node in graph for value in node.outputs)]
        return found | {value.name: value for value in own if value.name is not None and value.name in self.names}

    def _is_wanted_inside(self, node: ir.Node) -> bool:
        for body in bodies(node):
            if any(v.name in self.names for v in body.inputs):
                return True
            if any(v.name in self.names for n in ir.traversal.RecursiveGraphIterator(body) for v in n.outputs):
                return True
        return False

    def _out_of_if(self, node: ir.Node) -> dict[str, ir.Value]:
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        found: dict[str, ir.Value] = {}
        for branch, other in zip(branches, reversed(branches), strict=True):
            for name, value in self.lift(branch).items():
                branch.outputs.append(self._append(branch, "Identity", [value], name, _type(value)))
                empty = ir.tensor(np.zeros(0, _type(value).dtype.numpy()), dtype=_type(value).dtype)
                nothing = self._append(other, "Constant", [], name, _type(value), [ir.AttrTensor("value", empty)])
                other.outputs.append(nothing)
                found[name] = self._add_output(node, len(node.outputs), name, _type(value))
        return found

    def _out_of_loop(self, node: ir.Node) -> dict[str, ir.Value]:
        body = node.attributes["body"].as_graph()
        found: dict[str, ir.Value] = {}
        for name, value in self.lift(body).items():
            type_ = _type(value)
            carried = len(body.inputs) - 2
            none = self.edit.add_constant(f"{name}_none", np.zeros(0, type_.dtype.numpy()), before=node)
            start = self.edit.insert("SequenceConstruct", [none], before=node, base=f"{name}_start")
            start.type = ir.SequenceType(type_)
            node.resize_inputs(carried + 3)
            node.replace_input_with(carried + 2, start)
            before = ir.Value(name=self.edit.fresh_name(f"{name}_before"), type=ir.SequenceType(type_))
            body.inputs.append(before)
            shape = ir.AttrTensor("value", ir.tensor(np.array([-1], np.int64)))
            line = self._append(body, "Constant", [], f"{name}_line", ir.TensorType(ir.DataType.INT64), [shape])
            flat = self._append(body, "Reshape", [value, line], f"{name}_flat", type_)
            after = self._append(body, "SequenceInsert", [before, flat], f"{name}_after", ir.SequenceType(type_))
            body.outputs.insert(1 + carried, after)
            collected = self._add_output(node, carried, f"{name}_collected", ir.SequenceType(type_))
            axis = [ir.AttrInt64("axis", 0)]
            joined = ir.Node("", "ConcatFromSequence", [collected], axis, num_outputs=1)
            joined.name = self.edit.fresh_name(f"{name}_join")
            joined.outputs[0].name, joined.outputs[0].type = self.edit.fresh_name(f"{name}_joined"), type_
            graph_of(node).insert_after(node, joined)
            found[name] = joined.outputs[0]
        return found

    def _append(
        self,
        graph: ir.Graph,
        op_type: str,
        inputs: Sequence[ir.Value],
        base: str,
        type_: ir.TypeProtocol,
        attributes: Sequence[ir.Attr] = (),
    ) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes, num_outputs=1, name=self.edit.fresh_name(f"{base}_{op_type}"))
        node.outputs[0].name, node.outputs[0].type = self.edit.fresh_name(f"{base}_out"), type_
        graph.append(node)
        return node.outputs[0]

    def _add_output(self, node: ir.Node, index: int, base: str, type_: ir.TypeProtocol) -> ir.Value:
        """A new output of ``node`` at ``index``; those from there on move up by one with their names and readers."""
        node.resize_outputs(len(node.outputs) + 1)
        for old, new in reversed(list(zip(node.outputs[index:-1], node.outputs[index + 1 :], strict=True))):
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            name, old.name = old.name, None
            new.name, new.type, new.shape = name, old.type, old.shape
        value = node.outputs[index]
        value.name, value.type, value.shape = self.edit.fresh_name(f"{base}_out"), type_, None
        return value


def _type(value: ir.Value) -> ir.TensorType:
    return ir.TensorType(value.dtype or ir.DataType.FLOAT)
