"""Cuts units out of a model: slices constants, and rewrites the sizes, bounds and attributes that must follow."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model, graphs, nodes
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array, read
from onnxopt.passes.constants import tensor_of
from onnxopt.pruning.structure import Structure, alive, analyse
from onnxopt.pruning.walk import Alive

__all__ = ["cut", "numbers", "sliced", "with_values", "zeroed", "zeros"]


def cut(model: Model, shapes: Mapping[str, tuple[int, ...]], dead: Collection[int]) -> Model:
    """A copy of the model without the units ``dead``.

    Args:
        model: The model that ``dead`` was chosen from, by ``analyse`` with the same shapes; it is not changed.
        shapes: Name of a value -> shape in one call.
        dead: Representative ids of the units that go.
    """
    copy = model.clone()
    structure = analyse(copy, shapes)
    stays = alive(structure, frozenset(dead))
    edit = Editor(copy)
    for adjustment in structure.adjustments:
        adjustment.apply(edit, stays)
    masks: dict[ir.Value, dict[int, Array]] = {}
    for slot in structure.slots:
        mask = stays(slot.ids)
        if not mask.all():
            masks.setdefault(slot.value, {})[slot.axis] = mask
    for value, axes in masks.items():
        _replace(value, sliced(numbers(value), axes))
    for node in nodes(copy):
        for output in node.outputs:
            if not output.is_graph_output() and tensor_of(output) is None:
                output.shape = None
    infer_shapes(copy)
    return copy


def zeroed(model: Model, structure: Structure, dead: Collection[int]) -> Model:
    """A copy of the model, of the same shape, in which the weights of the units ``dead`` are zero.

    ``cut`` must give the same outputs. Constants that are divided by, and variances, keep their values.
    """
    masks = {value.name: found for value, found in _masks(structure, alive(structure, frozenset(dead))).items()}
    own = {value.name or "": value for value in _constants(model) if value.name in masks}
    return with_values(model, {name: _cleared(value, masks[name]) for name, value in own.items()})


def zeros(structure: Structure, stays: Alive) -> dict[str, Array]:
    """The constants in which something is cut, by name, with zeros there: what ``zeroed`` puts into a copy."""
    return {value.name or "": _cleared(value, found) for value, found in _masks(structure, stays).items()}


def _masks(structure: Structure, stays: Alive) -> dict[ir.Value, list[tuple[int, Array]]]:
    """For each constant in which something is cut the axes, and the positions that go."""
    found: dict[ir.Value, list[tuple[int, Array]]] = {}
    for slot in structure.slots:
        mask = stays(slot.ids)
        if slot.value not in structure.keep and not mask.all():
            found.setdefault(slot.value, []).append((slot.axis, ~mask))
    return found


def _cleared(value: ir.Value, masks: Sequence[tuple[int, Array]]) -> Array:
    array = numbers(value)
    for axis, mask in masks:
        np.moveaxis(array, axis, 0)[mask] = 0
    return array


def with_values(model: Model, values: Mapping[str, Array]) -> Model:
    """A copy with other numbers in some constants, by name."""
    copy = model.clone()
    for value in _constants(copy):
        if value.name in values:
            _replace(value, values[value.name or ""])
    return copy


def sliced(array: Array, masks: Mapping[int, Array]) -> Array:
    """What stays of an array: axis -> mask of its positions."""
    for axis, mask in masks.items():
        array = np.compress(mask, array, axis=axis)
    return np.ascontiguousarray(array)


def _constants(model: Model) -> list[ir.Value]:
    found: list[ir.Value] = []
    for graph in graphs(model):
        found += graph.initializers.values()
        found += [node.outputs[0] for node in graph if node.op_type == "Constant" and node.domain == ""]
    return found


def numbers(value: ir.Value) -> Array:
    """A copy of the values of a constant.

    Raises:
        ValueError: It is none.
    """
    tensor = tensor_of(value)
    if tensor is None:
        raise ValueError(f"{value.name!r} is no constant")
    return read(tensor)


def _replace(value: ir.Value, array: Array) -> None:
    """Gives a constant other numbers, in place."""
    old = tensor_of(value)
    tensor = ir.Tensor(np.ascontiguousarray(array), dtype=old.dtype if old is not None else None, name=value.name)
    value.shape = ir.Shape(array.shape)
    producer = value.producer()
    if producer is None or value.const_value is not None:
        value.const_value = tensor
    if producer is not None:
        producer.attributes.clear()
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
