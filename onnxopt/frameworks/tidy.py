"""An exported graph under names that the user knows, and without traces of the machine that it was made on."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, graphs, nodes
from onnxopt.errors import ModelError
from onnxopt.frameworks.base import Original

__all__ = ["tidy"]


def tidy(model: Model, original: Original) -> None:
    """Renames inputs, outputs and free axes, and removes source lines, paths and other notes of exporters, in place.

    Raises:
        ModelError: The graph has other inputs, or another number of outputs, than the model that it was made from.
    """
    _name_inputs(model, original)
    _name_outputs(model, original)
    _name_axes(model, original)
    model.doc_string = None
    model.metadata_props.clear()
    for graph in graphs(model):
        graph.doc_string = None
        graph.metadata_props.clear()
        for value in [*graph.inputs, *graph.initializers.values()]:
            _forget(value)
    for function in model.functions.values():
        function.doc_string = None
        function.metadata_props.clear()
    for node in nodes(model):
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            _forget(value)


def _forget(value: ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()


def _name_inputs(model: Model, original: Original) -> None:
    expected = [spec.name for spec in original.inputs]
    unknown = [value.name for value in model.graph.inputs if value.name not in expected]
    if unknown:
        raise ModelError(
            f"the exporter names an input {unknown[0]!r}; the model has {', '.join(map(repr, expected)) or 'none'}",
            where=original.framework,
            fix="try another --exporter",
        )


def _name_outputs(model: Model, original: Original) -> None:
    names, outputs = original.outputs, model.graph.outputs
    if not names:
        return
    if len(names) != len(outputs):
        raise ModelError(
            f"the exporter writes {len(outputs)} outputs, the model has {len(names)}: {', '.join(names)}",
            where=original.framework,
            fix="try another --exporter",
        )
    editor = Editor(model)
    taken = {value.name: value for value in _values(model)}
    for index, name in enumerate(names):
        value = outputs[index]
        if value.name == name:
            continue
        if value.is_graph_input() or value.is_initializer() or value in list(outputs)[:index]:
            _through_identity(model, index, editor)
            value = outputs[index]
        if name in taken and taken[name] is not value:
            if taken[name].is_graph_input() or any(taken[name] is output for output in outputs):
                name = editor.fresh_name(name)
            else:
                taken[name].name = editor.fresh_name(name)
        value.name = name
        taken[name] = value


def _through_identity(model: Model, index: int, editor: Editor) -> None:
    """An output that is an input, a weight or an earlier output becomes a value of its own."""
    source = model.graph.outputs[index]
    node = ir.node("Identity", [source], num_outputs=1, name=editor.fresh_name(f"{source.name}_identity"))
    node.outputs[0].name = editor.fresh_name(f"{source.name}_output")
    node.outputs[0].type, node.outputs[0].shape = source.type, source.shape
    model.graph.append(node)
    model.graph.outputs[index] = node.outputs[0]


def _values(model: Model) -> list[ir.Value]:
    found: list[ir.Value] = []
    for graph in graphs(model):
        found += [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            found += node.outputs
    return found


def _name_axes(model: Model, original: Original) -> None:
    """Symbols of exporters (``s77``) become those of the inputs, in expressions (``s77*4``) too."""
    specs = {spec.name: spec for spec in original.inputs}
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        spec = specs[value.name or ""]
        for found, wanted in zip(value.shape or (), spec.shape or (), strict=False):
            if isinstance(found, ir.SymbolicDim) and found.value and isinstance(wanted, str):
                names.setdefault(found.value, wanted)
    for value in _values(model):
        if value.shape is None or all(isinstance(d, int) for d in value.shape):
            continue
        dims = [d if isinstance(d, int) else _renamed(d.value, names) for d in value.shape]
        value.shape = ir.Shape(dims)


def _renamed(symbol: str | None, names: Mapping[str, str]) -> str | None:
    if symbol is None:
        return None
    return re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), symbol)
