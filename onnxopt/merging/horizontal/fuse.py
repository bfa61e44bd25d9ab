"""Members of one architecture as one: each of their operators that has a rule runs once for all of them.

The members are walked in step from the inputs on. An operator without a rule, or whose rule declines, stays one a
member, and what it reads is split again. A stack of separate values is only made for a MatMul, Gemm or Conv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.query import label
from onnxopt.core.report import Note
from onnxopt.core.tensors import content_key
from onnxopt.merging.horizontal.channels import CHANNELS, ONLY_CHANNELS
from onnxopt.merging.horizontal.leading import LEADING
from onnxopt.merging.horizontal.stacks import Leading, Refusal, Same, Separate, Stacker, State, Weights
from onnxopt.merging.horizontal.step import Step
from onnxopt.merging.horizontal.walk import groups_of, walk
from onnxopt.passes.cleanup.common import PURE_DOMAINS, attribute_key
from onnxopt.passes.constants import is_random, tensor_of

__all__ = ["Fused", "fuse"]

HEAVY = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})


@dataclass(frozen=True)
class Fused:
    """Values of members of which some are computed together.

    Attributes:
        values: One a member, as before.
        stacked: All of them as ``(K, ...)``, where all members are one architecture up to here.
        operators: How many nodes of one member run once for several.
        members: How many members take part.
        notes: What was left as it was.
    """

    values: tuple[ir.Value, ...]
    stacked: ir.Value | None
    operators: int
    members: int
    notes: tuple[Note, ...]


def fuse(drawing: Drawing, values: Sequence[ir.Value]) -> Fused:
    """The same values, computed together where the members that give them are alike.

    Args:
        drawing: Into the graph of the values, whose shapes are inferred; nodes that nothing reads any more stay.
        values: One a member.
    """
    found, operators, members = list(values), 0, 0
    declined: Counter[tuple[str, str, str]] = Counter()
    stacked: ir.Value | None = None
    for group in groups_of(values):
        if len(group) < 2 or len({id(values[k]) for k in group}) == 1:
            continue
        one = _Group(drawing, [values[k] for k in group], declined)
        state = one.run()
        operators, members = operators + one.operators, members + (len(group) if one.operators else 0)
        own = [values[k] for k in group]
        if len(group) == len(values):
            stacked = one.stacker.leading(state, own[0]) if not isinstance(state, Same | Separate) else None
        if stacked is None:
            for k, value in zip(group, one.stacker.apart(state, own), strict=True):
                found[k] = value
    notes = [
        Note(f"{op_type} {name}", "not fused", f"{reason}{f' ({count} such nodes)' if count > 1 else ''}")
        for (op_type, name, reason), count in _by_reason(declined).items()
    ]
    return Fused(tuple(found), stacked, operators, members, tuple(notes))


def _by_reason(declined: Counter[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    """The first node of each operator and reason, and how many there are."""
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for (op_type, name, reason), count in declined.items():
        first, so_far = found.get((op_type, reason), (name, 0))
        found[op_type, reason] = first, so_far + count
    return {(op_type, name, reason): count for (op_type, reason), (name, count) in found.items()}


class _Group:
    """Members of one architecture on their way; keeps what corresponding values have become."""

    def __init__(self, drawing: Drawing, values: Sequence[ir.Value], declined: Counter[tuple[str, str, str]]) -> None:
        self.values, self.declined = tuple(values), declined
        self.stacker = Stacker(drawing, len(values))
        self.states: dict[tuple[int, ...], State] = {}
        self.operators = 0
        self.gone: set[int] = set()

    def run(self) -> State:
        """What the values have become."""
        walks = [walk(value).nodes for value in self.values]
        fused: list[tuple[ir.Node, ...]] = []
        for nodes in zip(*walks, strict=True):
            if len({id(node) for node in nodes}) == 1:
                continue
            step = Step(nodes, tuple(self._state(read) for read in zip(*(n.inputs for n in nodes), strict=True)))
            result = self._fused(step)
            if isinstance(result, Refusal):
                self.declined[step.node.op_type, label(step.node), result.reason] += 1
                continue
            for outputs, state in zip(zip(*(n.outputs for n in nodes), strict=True), result, strict=False):
                self.states[tuple(id(o) for o in outputs)] = state
            fused.append(nodes)
            self.operators += 1
        self.gone = {id(node) for nodes in fused for node in nodes}
        for nodes in fused:
            for outputs in zip(*(n.outputs for n in nodes), strict=True):
                self._hand_on(outputs)
        return self._state(self.values) or Separate(self.values)

    def _state(self, read: Sequence[ir.Value | None]) -> State | None:
        """What the corresponding values are."""
        values = [value for value in read if value is not None]
        if not values:
            return None
        if len({id(value) for value in values}) == 1:
            return Same(values[0])
        known = self.states.get(tuple(id(value) for value in values))
        if known is not None:
            return known
        tensors = [tensor for value in values if (tensor := tensor_of(value)) is not None]
        if len(tensors) == len(values):
            if len({content_key(tensor) for tensor in tensors}) == 1:
                return Same(values[0])
            return Weights(tuple(tensors))
        return Separate(tuple(values))

    def _fused(self, step: Step) -> Sequence[State] | Refusal:
        node, states = step.node, [state for state in step.inputs if state is not None]
        if len({id(n) for n in step.nodes}) < len(step.nodes):
            return Refusal("some members share it already")
        if node.domain not in PURE_DOMAINS or is_random(node):
            return Refusal("the operator has no rule")
        if all(isinstance(state, Same) for state in states):
            return self._once(step)
        if step.has_separate and not self._may_start(step):
            return Refusal("what it reads is computed one by one")
        if node.domain:
            return Refusal("the operator has no rule")
        rules = [LEADING.get(node.op_type)]
        is_beside = node.op_type in ONLY_CHANNELS and (node.op_type != "BatchNormalization" or step.rank(0) != 2)
        if is_beside:
            rules = [ONLY_CHANNELS[node.op_type]]
        elif not any(isinstance(state, Leading) for state in states):
            rules.insert(0, CHANNELS.get(node.op_type))
        reason = Refusal("the operator has no rule")
        for rule in rules:
            found = None if rule is None else rule(step, self.stacker)
            if found is not None and not isinstance(found, Refusal):
                return found
            reason = found if found is not None else reason
        return reason

    def _once(self, step: Step) -> Sequence[State] | Refusal:
        """All read the same, so one of them serves all."""
        if any(attribute_key(attribute) is None for attribute in step.node.attributes.values()):
            return Refusal("it has a body")
        outputs = self.stacker.like(step.node, step.rest(0))
        for old, new in zip(step.node.outputs, outputs, strict=True):
            new.shape = old.shape
        return [Same(output) for output in outputs]

    def _may_start(self, step: Step) -> bool:
        """Whether a stack of what is separate is worth its copy."""
        weight = step.state(1)
        return step.node.op_type in HEAVY and weight is not None and not isinstance(weight, Separate)

    def _hand_on(self, outputs: Sequence[ir.Value]) -> None:
        """Lets nodes that stay one a member read their part of what is computed together."""
        state = self.states.get(tuple(id(output) for output in outputs))
        readers = [u for o in outputs for u in o.uses() if id(u.node) not in self.gone]
        if state is None or not readers or isinstance(state, Separate | Weights):
            return
        for old, new in zip(outputs, self.stacker.apart(state, outputs), strict=True):
            for node, index in list(old.uses()):
                if id(node) not in self.gone:
                    node.replace_input_with(index, new)
