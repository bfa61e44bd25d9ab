"""One node of each member, in step, and what is known of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnxopt.core import shapes
from onnxopt.merging.horizontal.stacks import Refusal, Same, Separate, Stacker, State
from onnxopt.passes.constants import array_of, int_attribute

__all__ = ["OPEN", "UNKNOWN", "Rule", "Step", "moved", "with_limits"]

UNKNOWN = Refusal("the number of axes is not known")
OPEN = Refusal("the sizes are not known")


@dataclass(frozen=True)
class Step:
    """Corresponding nodes: equal operators, attributes, and types and shapes of weights.

    Attributes:
        nodes: One a member.
        inputs: What each input is for all members; ``None``: left out.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[State | None, ...]

    @property
    def node(self) -> ir.Node:
        """That of the first member."""
        return self.nodes[0]

    @property
    def has_separate(self) -> bool:
        """Whether an input has one value a member, so that stacking costs a copy."""
        return any(isinstance(state, Separate) for state in self.inputs)

    def source(self, index: int) -> ir.Value:
        """The first member's input, whose type and shape are known; index of one that is not left out."""
        value = self.node.inputs[index]
        if value is None:
            raise ValueError(f"input {index} of {self.node.name!r} is left out")
        return value

    def has(self, index: int) -> bool:
        """Whether there is such an input."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def state(self, index: int) -> State | None:
        """Of an input; ``None``: it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def rest(self, start: int = 1) -> list[ir.Value | None]:
        """The inputs from ``start`` on that all members have alike; ``None``: left out, or one a member."""
        return [state.value if isinstance(state, Same) else None for state in self.inputs[start:]]

    def is_alike(self, start: int = 1) -> bool:
        """Whether all members have the inputs from ``start`` on alike."""
        return all(isinstance(state, Same | None) for state in self.inputs[start:])

    def rank(self, index: int) -> int | None:
        """The number of axes that an input of one member has."""
        return shapes.rank(self.source(index))

    def ranks(self) -> list[int] | None:
        """Those of all inputs."""
        found = [self.rank(i) for i in range(len(self.inputs)) if self.has(i)]
        return None if None in found else [r for r in found if r is not None]

    def length(self, index: int) -> int | None:
        """The size of an input of one axis, where it is known."""
        shape = self.source(index).shape
        size = None if shape is None or len(shape) != 1 else shape[0]
        return size if isinstance(size, int) else None

    def ints(self, index: int) -> list[int] | None:
        """The integers of a constant input that all members have alike."""
        state = self.state(index)
        array = array_of(state.value) if isinstance(state, Same) else None
        return None if array is None or array.dtype.kind not in "iu" else [int(i) for i in array.ravel()]

    def int(self, name: str, default: int) -> int:
        """An integer attribute (none of these nodes is in a function, whose caller could decide it)."""
        found = int_attribute(self.node, name, default)
        return default if found is None else found

    def stacked(self, index: int, stacker: Stacker, rank: int | None = None) -> ir.Value | None:
        """An input with the members in front; ``None``: not known how."""
        state = self.state(index)
        return None if state is None else stacker.leading(state, self.source(index), rank)


Rule: TypeAlias = Callable[[Step, Stacker], Sequence[State] | Refusal]


def with_limits(rule: Rule) -> Rule:
    """The rule of Clip, whose limits all members must have alike."""

    def clip(step: Step, stacker: Stacker) -> Sequence[State] | Refusal:
        return rule(step, stacker) if step.is_alike() else Refusal("its limits differ")

    return clip


def moved(axes: Sequence[int]) -> list[int]:
    """Axes of one member as axes of a stack: those that count from the end stay."""
    return [axis + 1 if axis >= 0 else axis for axis in axes]
