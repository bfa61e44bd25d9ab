"""Where the elements of a shape tensor come from, so that a size can be rewritten when channels go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.tensors import Array
from onnxopt.passes.constants import array_of, is_op
from onnxopt.pruning.walk import Walk

__all__ = ["Element", "Fixed", "Product", "Size", "leaks", "rewritten", "trace"]


@dataclass(frozen=True)
class Fixed:
    """A number that stands in the file."""

    number: int


@dataclass(frozen=True, eq=False)
class Size:
    """The size of an axis of a value, read by Shape."""

    value: ir.Value
    axis: int


@dataclass(frozen=True, eq=False)
class Product:
    """Sizes of several axes, multiplied."""

    parts: tuple[Size, ...]


Element: TypeAlias = Fixed | Size | Product | None
"""``None``: computed in a way that is not followed."""

SAME = ("Unsqueeze", "Squeeze", "Cast", "Identity")
SIZED = ("Reshape", "Expand", "ConstantOfShape")
"""Operators whose rules look at the elements of the shapes they are given."""


def trace(value: ir.Value | None, walk: Walk) -> Sequence[Element] | None:
    """One element for each entry of a shape tensor; ``None``: not even their number is known."""
    if value is None:
        return None
    array = array_of(value)
    if array is not None:
        return [Fixed(int(n)) for n in array.ravel().tolist()] if array.dtype.kind in "iu" else None
    node = value.producer()
    if node is None or value.name is None or value.name not in walk.shapes:
        return None
    if is_op(node, "Shape"):
        return _sizes(node, walk)
    if is_op(node, *SAME):
        return trace(node.inputs[0], walk)
    count = math.prod(walk.shapes[value.name])
    if is_op(node, "Concat"):
        parts = [trace(item, walk) for item in node.inputs]
        return None if any(p is None for p in parts) else [e for p in parts for e in p or ()]
    if is_op(node, "Mul") and count == 1:
        return [_product([trace(item, walk) for item in node.inputs])]
    if is_op(node, "Gather"):
        source, index = trace(node.inputs[0], walk), array_of(node.inputs[1])
        if source is not None and index is not None:
            return [source[int(i)] for i in index.ravel().tolist()]
    if is_op(node, "Slice") and len(node.inputs) >= 3:
        source = trace(node.inputs[0], walk)
        bounds = [array_of(item) for item in node.inputs[1:]]
        steps = bounds[3] if len(bounds) > 3 else None
        if source is not None and bounds[0] is not None and bounds[1] is not None and (steps is None or steps[0] == 1):
            return source[int(bounds[0].ravel()[0]) : int(bounds[1].ravel()[0])]
    return [None] * count


def _product(factors: Sequence[Sequence[Element] | None]) -> Element:
    """Of sizes only; a number among them could not be told from one that must change."""
    parts: list[Size] = []
    for factor in factors:
        match factor:
            case [Size() as size]:
                parts.append(size)
            case [Product(sizes)]:
                parts += sizes
            case _:
                return None
    return Product(tuple(parts))


def _sizes(node: ir.Node, walk: Walk) -> Sequence[Element] | None:
    source = node.inputs[0]
    if source is None or source.name is None:
        return None
    shape = walk.shapes.get(source.name)
    if shape is None:
        return None
    start = node.attributes.get_int("start", 0) or 0
    end = node.attributes.get_int("end", None)
    return [Size(source, i) for i in range(len(shape))][start:end]


def leaks(node: ir.Node, walk: Walk) -> set[int]:
    """The axes of what a Shape reads whose size is used by more than the operators that are followed."""
    found: set[int] = set()
    source = node.inputs[0]
    for value in _followed(node.outputs[0]):
        if value.is_graph_output():
            found |= _stated(value, source, walk)
        for use in value.uses():
            reader = use.node
            if is_op(reader, *SAME, "Concat", "Shape", "Size") or _is_followed(reader, use.idx):
                continue
            if is_op(reader, "Mul") and None not in (trace(reader.outputs[0], walk) or (None,)):
                continue
            found |= _stated(value, source, walk)
    return found


def _stated(value: ir.Value, source: ir.Value | None, walk: Walk) -> set[int]:
    """The axes of ``source`` whose sizes a value states, by themselves or in a product."""
    elements = trace(value, walk)
    if elements is None:
        return set(range(len(walk.shapes.get(source.name or "", ())))) if source is not None else set()
    sizes = [size for e in elements for size in (e.parts if isinstance(e, Product) else (e,))]
    return {size.axis for size in sizes if isinstance(size, Size) and size.value is source}


def _is_followed(reader: ir.Node, index: int) -> bool:
    if is_op(reader, "Gather", "Slice"):
        return index == 0 and all(array_of(item) is not None for item in reader.inputs[1:])
    return is_op(reader, *SIZED) and index == len(reader.inputs) - 1


def _followed(value: ir.Value) -> Iterator[ir.Value]:
    """The value and what is made of it by operators that only move elements."""
    yield value
    for use in value.uses():
        if is_op(use.node, *SAME, "Concat", "Mul") or (
            is_op(use.node, "Gather", "Slice") and _is_followed(use.node, use.idx)
        ):
            yield from _followed(use.node.outputs[0])


def rewritten(value: ir.Value, changes: Mapping[int, int], edit: Editor, before: ir.Node, walk: Walk) -> ir.Value:
    """A shape tensor like ``value`` in which the entries at some positions are other numbers.

    Args:
        value: A constant, or a chain that ``trace`` follows, whose entries at those positions are constants.
        changes: Position -> number.
        edit: Editor of the model.
        before: The node that will read it.
        walk: Knows how long shape tensors are.
    """
    array = array_of(value)
    if array is not None:
        new: Array = array.reshape(-1).copy()
        for position, number in changes.items():
            new[position] = number
        return edit.add_constant(value.name or "shape", new.reshape(array.shape), before=before)
    node = value.producer()
    if node is None or not is_op(node, "Concat", *SAME):
        raise ValueError(f"{value.name!r} is computed: its entries cannot be rewritten")
    inputs = list(node.inputs)
    start = 0
    for index, item in enumerate(inputs[:1] if is_op(node, *SAME) else inputs):
        if item is None:
            continue
        count = _length(item, walk)
        here = {p - start: n for p, n in changes.items() if start <= p < start + count}
        if here:
            inputs[index] = rewritten(item, here, edit, before, walk)
        start += count
    return edit.insert(
        node.op_type, inputs, before=before, base=value.name or "shape", attributes=list(node.attributes.values())
    )


def _length(item: ir.Value, walk: Walk) -> int:
    array = array_of(item)
    return math.prod(walk.shapes[item.name or ""]) if array is None else array.size
