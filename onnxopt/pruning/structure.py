"""What can be cut from a model: units (channels that go together) in groups, and what stands in the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import nested_graphs
from onnxopt.core.query import Model, graphs, label, opset
from onnxopt.core.report import Note
from onnxopt.pruning.channels import Ids
from onnxopt.pruning.rules.table import RULES
from onnxopt.pruning.walk import Adjustment, Alive, Declined, Linear, Slot, Walk

__all__ = ["Group", "Structure", "alive", "analyse"]

BODIES = ("If", "Loop", "Scan")
PART = "without it nothing would be left of an axis"
OUTPUT = "it is an output of the model"


@dataclass(frozen=True, eq=False)
class Group:
    """Units that lie in the same constants, along the same axes: cutting any of them saves the same.

    Attributes:
        name: The node that makes them, the first in graph order.
        units: One representative id for each unit, in the order of the channels.
        slots: The axes of constants that each unit has its positions in.
        makers: Nodes whose outputs are the units.
        readers: Nodes whose weights are multiplied with them: what repairs the loss.
    """

    name: str
    units: Ids
    slots: tuple[Slot, ...]
    makers: tuple[Linear, ...]
    readers: tuple[Linear, ...]


@dataclass(frozen=True, eq=False)
class Structure:
    """What the walk over one model found.

    Attributes:
        groups: What can be cut, in graph order.
        slots: All axes of constants with ids (representatives), cut or not.
        linears: All nodes with constant weights, in graph order.
        adjustments: What must follow a cut.
        keep: Constants that keep their values where channels are zeroed.
        barriers: Nodes that keep something from being cut, with the reason.
        roots: Id -> representative.
    """

    groups: tuple[Group, ...]
    slots: tuple[Slot, ...]
    linears: tuple[Linear, ...]
    adjustments: tuple[Adjustment, ...]
    keep: frozenset[ir.Value]
    barriers: tuple[Note, ...]
    walk: Walk

    def positions(self, slot: Slot) -> Ids:
        """Representative of each position of a slot."""
        return self.walk.channels.roots(slot.ids)


def analyse(model: Model, shapes: Mapping[str, tuple[int, ...]], *, keep: Iterable[str] = ()) -> Structure:
    """The structure of a model; the ids are the same for every copy of it.

    Args:
        model: The model, local functions inlined; it is not changed.
        shapes: Name of a value -> shape in one call (``run.tap.observed_shapes``).
        keep: Labels of nodes whose outputs keep all their channels.
    """
    repeated = _repeated(model)
    known = {name: shape for name, shape in shapes.items() if name not in repeated}
    walk = Walk(known, opset(model), repeated)
    kept = frozenset(keep)
    _enter(model.graph, walk, kept)
    for value in model.graph.outputs:
        walk.pin(value, OUTPUT)
    barriers = tuple(Note(label(node), "kept", reason) for node, reason in walk.barriers)
    slots = tuple(walk.slots.values())
    groups = _groups(slots, walk)
    if _leave_one(groups, walk):
        groups = _groups(slots, walk)
    return Structure(
        groups=groups,
        slots=slots,
        linears=tuple(walk.linears),
        adjustments=tuple(walk.adjustments),
        keep=frozenset(walk.keep),
        barriers=barriers,
        walk=walk,
    )


def _repeated(model: Model) -> frozenset[str]:
    """Names that several branches give to values of their own: shapes and constants cannot be told apart by them."""
    names: Counter[str] = Counter()
    for graph in graphs(model):
        names.update(graph.initializers.keys())
        names.update(output.name for node in graph for output in node.outputs if output.name)
    return frozenset(name for name, count in names.items() if count > 1)


def alive(structure: Structure, dead: frozenset[int]) -> Alive:
    """Whether positions with some ids stay when the units ``dead`` go."""

    def stays(ids: Ids) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        roots = structure.walk.channels.roots(ids)
        return ~np.isin(roots, np.fromiter(dead, np.int64, len(dead)))

    return stays


def _enter(graph: ir.Graph, walk: Walk, kept: frozenset[str]) -> None:
    for node in graph:
        for attribute in node.attributes.values():
            for body in nested_graphs(attribute):
                for value in body.inputs:
                    walk.put(value, [])
                _enter(body, walk, kept)
                for value in body.outputs:
                    _keep(value, walk, f"it leaves the body of {node.op_type}")
        _apply(node, walk)
        if label(node) in kept:
            for value in node.outputs:
                _keep(value, walk, "it was asked to stay")


def _apply(node: ir.Node, walk: Walk) -> None:
    """Lets the rule of the node tie and pin; where there is none, or it declines, nothing that it reads is cut."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        return
    rule = RULES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
    reason = f"{node.op_type} takes it as a whole" if node.op_type in BODIES else f"{node.op_type} is not understood"
    try:
        if rule is not None:
            rule(node, walk)
            return
    except Declined as declined:
        reason = f"{node.op_type}: {declined}"
    met = [_keep(value, walk, reason) for value in node.inputs]
    if any(met):
        walk.barriers.append((node, reason))


def _keep(value: ir.Value | None, walk: Walk, reason: str) -> bool:
    """Pins a value, whose shape may not be known; whether there was something to pin."""
    try:
        before = value is not None and any(a is not None for a in walk.known(value))
        walk.pin(value, reason)
    except Declined:
        return False
    return before


def _groups(slots: tuple[Slot, ...], walk: Walk) -> tuple[Group, ...]:
    """Units with the same slots, as one group each; a unit that no linear node makes or reads is left alone."""
    where: dict[int, list[int]] = {}
    for index, slot in enumerate(slots):
        for root in dict.fromkeys(walk.channels.roots(slot.ids).tolist()):
            where.setdefault(root, []).append(index)
    alike: dict[tuple[int, ...], list[int]] = {}
    for root, indices in where.items():
        if walk.channels.reason(root) is None:
            alike.setdefault(tuple(indices), []).append(root)
    makers: dict[tuple[ir.Value, int], list[Linear]] = {}
    readers: dict[tuple[ir.Value, int], list[Linear]] = {}
    for linear in walk.linears:
        makers.setdefault((linear.weight, linear.out_axis), []).append(linear)
        if linear.in_axis >= 0:
            readers.setdefault((linear.weight, linear.in_axis), []).append(linear)
    found: list[Group] = []
    for indices, roots in alike.items():
        own = [slots[i] for i in indices]
        made = tuple(m for s in own for m in makers.get((s.value, s.axis), ()))
        read = tuple(r for s in own for r in readers.get((s.value, s.axis), ()))
        if not made or len(roots) < 2:
            continue
        found.append(Group(label(made[0].node), np.array(roots, np.int64), tuple(own), made, read))
    return tuple(found)


def _leave_one(groups: tuple[Group, ...], walk: Walk) -> bool:
    """Keeps a unit of every axis that could lose all its own; whether there was one.

    Of every group a unit stays, so an axis that has all units of one is safe. Split, Slice and Gather make axes that
    have some of them only.
    """
    owner = {int(unit): index for index, group in enumerate(groups) for unit in group.units}
    sizes = [len(group.units) for group in groups]
    has_pinned = False
    for axis in walk.distinct():
        roots = set(walk.channels.roots(axis).tolist())
        if any(root not in owner for root in roots):
            continue
        met = Counter(owner[root] for root in roots)
        if any(count == sizes[index] for index, count in met.items()):
            continue
        unit = min(roots)
        walk.channels.pin(np.array([unit]), PART)
        sizes[owner.pop(unit)] -= 1
        has_pinned = True
    return has_pinned
