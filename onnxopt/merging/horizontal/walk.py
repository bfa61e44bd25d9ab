"""Walks members in step: which of them have one architecture, and which of their nodes correspond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.core.edit import nested_graphs
from onnxopt.passes.cleanup.common import attribute_key
from onnxopt.passes.constants import tensor_of

__all__ = ["Walk", "groups_of", "walk"]


@dataclass(frozen=True)
class Walk:
    """The nodes that a value depends on.

    Attributes:
        nodes: Each after those that it reads, in an order that the architecture alone decides.
        key: Equal for two values exactly when operators, attributes, wiring, and types and shapes of weights are.
    """

    nodes: tuple[ir.Node, ...]
    key: tuple[object, ...]


def walk(value: ir.Value) -> Walk:
    """The walk from ``value`` up; bodies of control flow are not entered."""
    order: list[ir.Node] = []
    place: dict[int, int] = {}
    start = value.producer()
    waiting = [] if start is None else [(start, False)]
    while waiting:
        node, is_ready = waiting.pop()
        if id(node) in place:
            continue
        if is_ready:
            place[id(node)] = len(order)
            order.append(node)
            continue
        waiting.append((node, True))
        for read in reversed(node.inputs):
            source = None if read is None or tensor_of(read) is not None else read.producer()
            if source is not None and id(source) not in place:
                waiting.append((source, False))
    key = tuple(_node_key(node, place) for node in order)
    return Walk(tuple(order), (*key, _value_key(value, place)))


def groups_of(values: Sequence[ir.Value]) -> list[list[int]]:
    """Places of the values that have one architecture; those that have none in common stand alone."""
    found: dict[tuple[object, ...], list[int]] = {}
    for k, value in enumerate(values):
        found.setdefault(walk(value).key, []).append(k)
    return list(found.values())


def _node_key(node: ir.Node, place: dict[int, int]) -> tuple[object, ...]:
    attributes = [
        (name, ("graphs", len(nested_graphs(a))) if (key := attribute_key(a)) is None else key)
        for name, a in sorted(node.attributes.items())
    ]
    return (
        node.op_identifier(),
        len(node.outputs),
        tuple(attributes),
        tuple(_value_key(read, place) for read in node.inputs),
    )


def _value_key(value: ir.Value | None, place: dict[int, int]) -> tuple[object, ...]:
    if value is None:
        return ()
    tensor = tensor_of(value)
    if tensor is not None:
        return ("weight", tensor.dtype, tuple(int(size) for size in tensor.shape.numpy()))
    source = value.producer()
    if source is None or id(source) not in place:
        return ("input", value.name)
    return ("node", place[id(source)], value.index())
