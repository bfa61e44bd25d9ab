"""What corresponding values of members become, and the nodes that bring one form to another.

``Leading`` puts the members in front: ``(K, *shape)``; ``Channels`` beside each other on the channel axis:
``(n, K * c, ...)``, as grouped convolutions take them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Attribute, Drawing
from onnxopt.core.tensors import Array, read
from onnxopt.passes.constants import tensor_of

__all__ = ["Channels", "Leading", "Refusal", "Same", "Separate", "Stacker", "State", "Weights"]


@dataclass(frozen=True)
class Same:
    """One value that all members have."""

    value: ir.Value


@dataclass(frozen=True)
class Weights:
    """Constants of one type and shape that differ."""

    tensors: tuple[ir.TensorProtocol, ...]


@dataclass(frozen=True)
class Leading:
    """``(K, *shape)``."""

    value: ir.Value


@dataclass(frozen=True)
class Channels:
    """``(n, K * channels, ...)``."""

    value: ir.Value
    channels: int


@dataclass(frozen=True)
class Separate:
    """One value a member."""

    values: tuple[ir.Value, ...]


State: TypeAlias = Same | Weights | Leading | Channels | Separate


@dataclass(frozen=True)
class Refusal:
    """Why a node has no form for several members."""

    reason: str


class Stacker:
    """Draws stacked values into a graph.

    Args:
        drawing: Into the graph that the members are in.
        count: Of members.
    """

    def __init__(self, drawing: Drawing, count: int) -> None:
        self.drawing, self.count = drawing, count

    def like(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], changed: Mapping[str, Attribute] | None = None
    ) -> tuple[ir.Value, ...]:
        """The outputs of a node like ``node`` with other inputs and some other attributes; they have its types."""
        attributes: dict[str, ir.Attr] = {name: a for name, a in node.attributes.items()}
        for name, value in (changed or {}).items():
            attributes[name] = ir.convenience.convert_attribute(name, value)
        drawing = self.drawing
        fresh = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=drawing.editor.fresh_name(f"{drawing.base}_{node.op_type}"),
        )
        for old, new in zip(node.outputs, fresh.outputs, strict=True):
            new.name = drawing.editor.fresh_name(f"{drawing.base}_{node.op_type.lower()}") if old.name else ""
            new.type = old.type
        drawing.graph.append(fresh)
        return tuple(fresh.outputs)

    def arrays(self, state: State, change: Callable[[Array], Array] | None = None) -> list[Array] | None:
        """The constant of each member, changed; ``None``: they are no constants."""
        if isinstance(state, Weights):
            found = [read(tensor) for tensor in state.tensors]
        elif isinstance(state, Same) and (tensor := tensor_of(state.value)) is not None:
            found = [read(tensor)] * self.count
        else:
            return None
        return found if change is None else [change(array) for array in found]

    def stack(self, arrays: Sequence[Array], rank: int) -> ir.Value:
        """A constant ``(K, 1, ..., *shape)`` whose members have ``rank`` axes."""
        padded = [a.reshape((1,) * (rank - a.ndim) + a.shape) for a in arrays]
        return self.drawing.constant(np.stack(padded))

    def side_by_side(self, arrays: Sequence[Array], axis: int = 0) -> ir.Value:
        """A constant that has those of the members one after the other on ``axis``."""
        return self.drawing.constant(np.concatenate(list(arrays), axis=axis))

    def leading(self, state: State, source: ir.Value, rank: int | None = None) -> ir.Value | None:
        """The state with the members in front, each brought to ``rank`` axes by sizes of 1; ``None``: not known how.

        Args:
            state: Of the values.
            source: That of the first member, whose shape is known.
            rank: Default: as many as it has.
        """
        drawing, own = self.drawing, len(source.shape) if source.shape is not None else -1
        match state:
            case Weights(tensors):
                return self.stack([read(t) for t in tensors], max(rank or 0, len(tensors[0].shape)))
            case Leading(value):
                found = value
            case Same(value):
                one = drawing.op("Unsqueeze", value, drawing.constant([0]))
                found = drawing.op("Concat", *[one] * self.count, axis=0)
            case Separate(values):
                ones = [drawing.op("Unsqueeze", value, drawing.constant([0])) for value in values]
                found = drawing.op("Concat", *ones, axis=0)
            case Channels(value, channels):
                rest = _sizes(source, 2)
                if rest is None:
                    return None
                shape = drawing.constant([0, self.count, channels, *rest])
                order = [1, 0, *range(2, own + 1)]
                found = drawing.op("Transpose", drawing.op("Reshape", value, shape), perm=order)
        found.type = source.type
        if rank is None or rank == own:
            return found
        if own < 0 or rank < own:
            return None
        found = drawing.op("Unsqueeze", found, drawing.constant(list(range(1, 1 + rank - own))))
        found.type = source.type
        return found

    def channels(self, state: State, source: ir.Value) -> Channels | None:
        """The state with the members side by side on axis 1; ``None``: not known how."""
        drawing, channels = self.drawing, _channels(source)
        if channels is None:
            return None
        match state:
            case Channels():
                return state
            case Same(value):
                found = drawing.op("Concat", *[value] * self.count, axis=1)
            case Separate(values):
                found = drawing.op("Concat", *values, axis=1)
            case Leading(value):
                rest, own = _sizes(source, 2), len(source.shape or ())
                if rest is None:
                    return None
                moved = drawing.op("Transpose", value, perm=[1, 0, *range(2, own + 1)])
                found = drawing.op("Reshape", moved, drawing.constant([0, self.count * channels, *rest]))
            case Weights():
                return None
        found.type = source.type
        return Channels(found, channels)

    def apart(self, state: State, sources: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
        """One value a member again.

        Args:
            state: Stacked, or the same for all.
            sources: The values that the members had; their types and shapes are kept.
        """
        drawing = self.drawing
        match state:
            case Same(value):
                return (value,) * self.count
            case Leading(value):
                found = [
                    drawing.op("Gather", value, drawing.constant(np.asarray(k)), axis=0) for k in range(self.count)
                ]
            case Channels(value, channels):
                sizes = drawing.constant([channels] * self.count)
                found = list(drawing.ops("Split", value, sizes, outputs=self.count, axis=1))
            case Weights() | Separate():
                return tuple(sources)
        for old, new in zip(sources, found, strict=True):
            new.type, new.shape = old.type, old.shape
        return tuple(found)


def _sizes(source: ir.Value, start: int) -> list[int] | None:
    """The sizes from axis ``start`` on, for a Reshape: one of them may be open (-1)."""
    if source.shape is None:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in list(source.shape)[start:]]
    return sizes if sizes.count(-1) <= 1 else None


def _channels(source: ir.Value) -> int | None:
    if source.shape is None or len(source.shape) < 2:
        return None
    size = source.shape[1]
    return size if isinstance(size, int) else None
