"""What the rules of the operators read and write while the graph is walked.

The ids of every axis, and what must be rewritten when channels go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.passes.constants import tensor_of
from onnxopt.pruning.channels import Axis, Channels, Ids

__all__ = ["Adjustment", "Alive", "Axes", "Declined", "Linear", "Rule", "Slot", "Walk"]

Axes: TypeAlias = list[Axis]
Alive: TypeAlias = Callable[[Ids], "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]"]
"""Ids -> whether each position stays."""


class Declined(Exception):
    """A rule does not understand its node: the axes that reach it are never cut. Its text is the reason."""


class Adjustment(Protocol):
    """Something besides constants that must follow when channels go: a size, a bound, an attribute."""

    def apply(self, edit: Editor, alive: Alive) -> None:
        """Rewrites it in place."""
        ...


@dataclass(frozen=True, eq=False)
class Linear:
    """A node that multiplies what it reads with constant weights.

    Attributes:
        node: Conv, ConvTranspose, Gemm, MatMul, or a recurrent operator.
        data: What it reads.
        data_axis: Its channel axis.
        weight: The constant.
        in_axis: Axis of the weight that goes with the channels it reads; -1: a depthwise Conv, which has none.
        out_axis: Axis of the weight that goes with the channels it makes.
        bias: The constant that is added to its output: its own, or that of an Add behind a MatMul.
    """

    node: ir.Node
    data: ir.Value
    data_axis: int
    weight: ir.Value
    in_axis: int
    out_axis: int
    bias: ir.Value | None


@dataclass(frozen=True, eq=False)
class Slot:
    """An axis of a constant, with an id for each position."""

    value: ir.Value
    axis: int
    ids: Ids


@dataclass
class Walk:
    """The state of one walk; mutable because every rule adds to it.

    Attributes:
        shapes: Name of a value -> shape in the call that was observed.
        opset: Version of the default operator set.
        repeated: Names of several values; constants among them are never cut.
        channels: The union-find.
        slots: (constant, axis) -> its ids, for every axis that a rule asked for.
        keep: Constants whose values stay where their channels are zeroed: divisors, variances.
        linears: Nodes with constant weights, in graph order.
        adjustments: What else must be rewritten.
        barriers: (node, reason) of what was not understood.
    """

    shapes: Mapping[str, tuple[int, ...]]
    opset: int
    repeated: frozenset[str] = frozenset()
    channels: Channels = field(default_factory=Channels)
    slots: dict[tuple[ir.Value, int], Slot] = field(default_factory=dict[tuple[ir.Value, int], Slot])
    keep: set[ir.Value] = field(default_factory=set[ir.Value])
    linears: list[Linear] = field(default_factory=list[Linear])
    adjustments: list[Adjustment] = field(default_factory=list[Adjustment])
    barriers: list[tuple[ir.Node, str]] = field(default_factory=list[tuple[ir.Node, str]])
    _found: dict[ir.Value, Axes] = field(default_factory=dict[ir.Value, Axes])
    _copies: set[int] = field(default_factory=set[int])
    _forbidden: dict[tuple[ir.Value, int], str] = field(default_factory=dict[tuple[ir.Value, int], str])

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """The observed shape of a value, or the shape of a constant.

        Raises:
            Declined: It is not known.
        """
        tensor = tensor_of(value)
        if tensor is not None:
            return tuple(tensor.shape.numpy())
        if value.name is None or value.name not in self.shapes:
            raise Declined(f"the shape of {value.name!r} is not known")
        return self.shapes[value.name]

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether the value is a constant of floats that can be sliced."""
        tensor = tensor_of(value)
        if tensor is None or value is None or value.name in self.repeated:
            return False
        return tensor.dtype.is_floating_point()

    def axis(self, value: ir.Value, axis: int) -> Axis:
        """The ids of one axis; those of a constant are made when they are first asked for."""
        shape = self.shape(value)
        axis %= len(shape)
        if not self.is_constant(value):
            found = self._found.get(value)
            return found[axis] if found else None
        if shape[axis] == 1 or (value, axis) in self._forbidden:
            return None
        slot = self.slots.get((value, axis))
        if slot is None:
            slot = Slot(value, axis, self.channels.fresh(shape[axis]))
            self.slots[value, axis] = slot
            if value.is_graph_output():
                self.channels.pin(slot.ids, "it is an output of the model")
        return slot.ids

    def axes(self, value: ir.Value) -> Axes:
        """The ids of all axes."""
        return [self.axis(value, i) for i in range(len(self.shape(value)))]

    def known(self, value: ir.Value) -> Axes:
        """The ids of all axes that have any so far."""
        if self.is_constant(value):
            return [slot.ids for (owner, _), slot in self.slots.items() if owner is value]
        return [ids for ids in self._found.get(value, ()) if ids is not None]

    def copied(self, count: int) -> Ids:
        """Fresh ids of an axis whose entries are copies of each other."""
        ids = self.channels.fresh(count)
        self._copies.update(ids.tolist())
        return ids

    def are_copies(self, ids: Ids) -> bool:
        """Whether these are ids of copies, as they were made."""
        return int(ids.ravel()[0]) in self._copies

    def made(self, value: ir.Value) -> Axes:
        """The ids of the axes of what a node makes; empty: nothing is known of it."""
        return self._found.get(value, [])

    def distinct(self) -> list[Ids]:
        """The ids of all axes of computed values, each array once."""
        return list({id(ids): ids for axes in self._found.values() for ids in axes if ids is not None}.values())

    def put(self, value: ir.Value, axes: Sequence[Axis]) -> None:
        """States the ids of what a node makes."""
        self._found[value] = list(axes)

    def tie(self, first: Axis, second: Axis, reason: str) -> Axis:
        """Unites two axes; where one is never cut neither is the other, for that reason. Returns their ids."""
        if first is None or second is None:
            self.channels.pin(first if second is None else second, reason)
            return None
        if len(first) != len(second):
            self.channels.pin(first, reason)
            self.channels.pin(second, reason)
            return None
        self.channels.unite(first, second)
        return first

    def pin(self, value: ir.Value | None, reason: str) -> None:
        """Keeps all axes of a value."""
        if value is None:
            return
        if self.is_constant(value):
            for axis in range(len(self.shape(value))):
                self.forbid(value, axis, reason)
            return
        for ids in self._found.get(value, ()):
            self.channels.pin(ids, reason)

    def pin_axes(self, value: ir.Value, axes: Iterable[int], reason: str) -> None:
        """Keeps some axes of a value."""
        for axis in axes:
            if self.is_constant(value):
                self.forbid(value, axis % len(self.shape(value)), reason)
            else:
                self.channels.pin(self.axis(value, axis), reason)

    def forbid(self, value: ir.Value, axis: int, reason: str) -> None:
        """Keeps an axis of a constant, without ids for it where it has none yet."""
        slot = self.slots.get((value, axis))
        if slot is None:
            self._forbidden[value, axis] = reason
        else:
            self.channels.pin(slot.ids, reason)


Rule: TypeAlias = Callable[[ir.Node, Walk], None]
"""Reads the ids of a node's inputs, ties and pins, and puts those of its outputs."""
