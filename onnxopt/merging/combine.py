"""Puts the graphs of all members into one, with the shared inputs in front and one value a member at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, TensorSpec, graphs
from onnxopt.core.shapes import infer_shapes
from onnxopt.merging.align import Alignment
from onnxopt.merging.member import Member
from onnxopt.passes.base import Context
from onnxopt.passes.cleanup.unused import RemoveUnused

__all__ = ["Joined", "clean", "finish", "graft", "graft_all", "imports_of", "join", "name_output", "spec_value"]

PRODUCER = "onnxopt"


@dataclass(frozen=True)
class Joined:
    """All members in one model that has no outputs yet.

    Attributes:
        model: The model.
        editor: Of that model.
        values: The output of each member that takes part.
    """

    model: Model
    editor: Editor
    values: tuple[ir.Value, ...]


def join(alignment: Alignment, members: Sequence[Member] | None = None) -> Joined:
    """The members (default: all) in one model; their own models are not changed."""
    chosen = alignment.members if members is None else members
    needed = {name for member in chosen for name in member.feeds.values()}
    inputs = [spec_value(spec) for spec in alignment.inputs if spec.name in needed]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports=imports_of(chosen), name="ensemble")
    metadata = _metadata(chosen)
    model = ir.Model(
        graph,
        ir_version=max(m.model.ir_version for m in chosen),
        producer_name=PRODUCER,
        metadata_props=metadata,
    )
    editor = Editor(model)
    shared = {value.name or "": value for value in inputs}
    values = tuple(graft(model, editor, member, shared) for member in chosen)
    return Joined(model, editor, values)


def graft(
    model: Model,
    editor: Editor,
    member: Member,
    shared: Mapping[str, ir.Value],
    *,
    into: ir.Graph | None = None,
) -> ir.Value:
    """Appends the member's graph to that of ``model``; its chosen output as a value of the graph (``graft_all``)."""
    return graft_all(model, editor, member, shared, into=into)[member.output]


def graft_all(
    model: Model,
    editor: Editor,
    member: Member,
    shared: Mapping[str, ir.Value],
    *,
    into: ir.Graph | None = None,
) -> dict[str, ir.Value]:
    """Appends the member's graph to that of ``model``; its outputs by name.

    Args:
        model: Grows.
        editor: Of that model.
        member: What to append; its own model is not changed.
        shared: Name of each shared input -> what feeds it.
        into: Where the nodes go: the body of a node of that model; default: its main graph. Weights go to that.
    """
    own, graph, place = member.model.clone(), model.graph, into if into is not None else model.graph
    _rename_functions(model, own)
    _fresh_names(own, editor)
    specs = {spec.name: spec for spec in member.inputs}
    for old, value in zip(list(member.model.graph.inputs), list(own.graph.inputs), strict=True):
        name = old.name or ""
        adapter = member.adapters.get(name)
        source = shared[member.feeds[name]]
        if adapter is not None:
            source = adapter.draw(Drawing(editor, place, f"{name}_adapted"), source, specs[name])
        value.replace_all_uses_with(source, replace_graph_outputs=True)
    names = [v.name or "" for v in member.model.graph.outputs]
    outputs = dict(zip(names, own.graph.outputs, strict=True))
    own.graph.outputs.clear()
    for name, value in list(own.graph.initializers.items()):
        del own.graph.initializers[name]
        graph.register_initializer(value)
    nodes = list(own.graph)
    own.graph.remove(nodes)
    place.extend(nodes)
    for key, function in own.functions.items():
        model.functions.setdefault(key, function)
    for domain, version in imports_of([member]).items():
        graph.opset_imports.setdefault(domain, version)
    return outputs


def finish(joined: Joined, output: ir.Value, spec: TensorSpec) -> Model:
    """The model with its one output, called and shaped as ``spec`` says; what no output needs is gone."""
    name_output(joined, output, spec)
    return clean(joined.model)


def clean(model: Model) -> Model:
    """The model without what no output needs, with the shapes that can be inferred."""
    model = RemoveUnused().run(model, Context(Path())).model
    infer_shapes(model)
    return model


def name_output(joined: Joined, output: ir.Value, spec: TensorSpec) -> None:
    """Makes ``output`` an output of the model, called, typed and shaped as ``spec`` says."""
    model, graph = joined.model, joined.model.graph
    name, taken = spec.name, {v.name for v in graph.inputs}
    if name in taken:
        name = joined.editor.fresh_name(name)
    if output.producer() is None or output.is_graph_output() or output.graph is not graph:
        output = Drawing(joined.editor, graph, name).op("Identity", output)
    for value in _named(model, name):
        if value is not output:
            value.name = joined.editor.fresh_name(f"{name}_inner")
    output.name = name
    template = spec_value(spec)
    output.type, output.shape = template.type, template.shape
    graph.outputs.append(output)


def spec_value(spec: TensorSpec) -> ir.Value:
    """A value with the name, type and shape of ``spec``."""
    kind = ir.DataType.FLOAT
    if spec.dtype is not None:
        kind = ir.DataType.STRING if spec.dtype.kind == "U" else ir.DataType.from_numpy(spec.dtype)
    shape = None if spec.shape is None else ir.Shape(spec.shape)
    return ir.Value(name=spec.name, type=ir.TensorType(kind), shape=shape)


def imports_of(members: Sequence[Member]) -> dict[str, int]:
    """The newest version of each operator domain that a member uses."""
    found: dict[str, int] = {}
    for member in members:
        for graph in (member.model.graph, *member.model.functions.values()):
            for domain, version in graph.opset_imports.items():
                found[domain] = max(version, found.get(domain, 0))
    return found


def _metadata(members: Sequence[Member]) -> dict[str, str]:
    """The properties that all members have alike, and of the others each with the number of its member."""
    found: dict[str, str] = {}
    for number, member in enumerate(members, 1):
        for key, value in member.model.metadata_props.items():
            if key == PRODUCER:
                continue
            if all(m.model.metadata_props.get(key) == value for m in members):
                found[key] = value
            else:
                found[f"{key}.{number}"] = value
    return found


def _rename_functions(model: Model, own: Model) -> None:
    """Gives a fresh name to each local function that ``model`` has with another body."""
    for key, function in list(own.functions.items()):
        other = model.functions.get(key)
        if other is None or ir.to_proto(other).SerializeToString(deterministic=True) == ir.to_proto(
            function
        ).SerializeToString(deterministic=True):
            continue
        count = 2
        while (fresh := (key[0], f"{key[1]}_{count}", key[2])) in {*model.functions, *own.functions}:
            count += 1
        for graph in graphs(own):
            for node in graph:
                if node.op_identifier() == key:
                    node.op_type = fresh[1]
        del own.functions[key]
        function.name = fresh[1]
        own.functions[function.identifier()] = function


def _fresh_names(own: Model, editor: Editor) -> None:
    """Renames all that the graph and its bodies define; sizes that are not numbers are forgotten."""
    for graph in (own.graph, *own.graph.subgraphs()):
        for value in dict.fromkeys([*graph.inputs, *graph.initializers.values()]):
            value.name = editor.fresh_name(value.name or "value")
        for node in graph:
            node.name = editor.fresh_name(node.name or node.op_type)
            for value in node.outputs:
                if value.name:
                    value.name = editor.fresh_name(value.name)
                if value.shape is not None and not value.shape.is_static():
                    value.shape = None


def _named(model: Model, name: str) -> list[ir.Value]:
    found: list[ir.Value] = []
    for graph in (model.graph, *model.graph.subgraphs()):
        found += [v for v in dict.fromkeys([*graph.inputs, *graph.initializers.values()]) if v.name == name]
        found += [v for node in graph for v in node.outputs if v.name == name]
    return found
