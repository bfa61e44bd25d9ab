"""Two profiles side by side, by regions of the reference: a node that computes, and all that follows it.

So that the time of two models whose nodes differ (floats against integers with conversions between them) can be
compared part by part, every kernel of both goes to exactly one region, and the regions of each side sum to its profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxopt.core.query import Model, label
from onnxopt.measurement.attribution import COMPUTE_OPS
from onnxopt.measurement.profile import Profile

__all__ = ["RegionTime", "compare_profiles"]

WHOLE = "(whole model)"


@dataclass(frozen=True)
class RegionTime:
    """The time of one region in both models.

    Attributes:
        nodes: Labels of the computing nodes of the reference in it, several where a kernel of either model stands for
            several; ``"(whole model)"`` where the reference has none.
        reference_ops: Executed operators of the reference, largest time first.
        candidate_ops: Those of the candidate.
        reference_ms: Time in the reference.
        candidate_ms: Time in the candidate.
    """

    nodes: tuple[str, ...]
    reference_ops: tuple[str, ...]
    candidate_ops: tuple[str, ...]
    reference_ms: float
    candidate_ms: float

    @property
    def loss_ms(self) -> float:
        """What the candidate takes longer; negative: what it gains."""
        return self.candidate_ms - self.reference_ms

    @property
    def ratio(self) -> float | None:
        """Candidate / reference; ``None``: the reference spends no time here."""
        return self.candidate_ms / self.reference_ms if self.reference_ms else None


def compare_profiles(
    reference: Profile, candidate: Profile, reference_model: Model, candidate_model: Model
) -> tuple[RegionTime, ...]:
    """The regions in which either model spends time, largest loss of the candidate first.

    A node belongs to the computing node that comes before it, the last of several, else to the first that it leads to.
    Nodes of the candidate are those of the reference with the same name, else with the same output; the others belong
    to the region of their neighbours.
    """
    first = _reference_side(reference, reference_model)
    second = _candidate_side(candidate, candidate_model, first.regions, reference_model)
    whole = _merged(first, second)
    sums: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for k, side in enumerate((first, second)):
        for t, region in zip(side.profile.times, _placed(side), strict=True):
            ops = sums.setdefault(whole.get(region, region), ({}, {}))[k]
            ops[t.op] = ops.get(t.op, 0.0) + t.time_ms
    members: dict[str, list[str]] = {}
    for name, root in whole.items():
        members.setdefault(root, []).append(name)
    found = [
        RegionTime(tuple(members.get(name, [name])), _ranked(a), _ranked(b), sum(a.values()), sum(b.values()))
        for name, (a, b) in sums.items()
    ]
    return tuple(sorted(found, key=lambda region: -region.loss_ms))


@dataclass(frozen=True)
class _Side:
    """A profile, and where the nodes of its model belong.

    Attributes:
        profile: The profile.
        regions: Label of each node of the main graph -> the region, which bears the label of a node of the reference.
        joined: Labels of the nodes that are known to be in their region; the others follow them.
        computing: Those of them that compute.
    """

    profile: Profile
    regions: Mapping[str, str]
    joined: frozenset[str]
    computing: frozenset[str]


def _reference_side(profile: Profile, model: Model) -> _Side:
    computing = frozenset(label(node) for node in model.graph if node.op_type in COMPUTE_OPS)
    return _Side(profile, _regions(model, {name: name for name in computing}), computing, computing)


def _candidate_side(profile: Profile, model: Model, regions: Mapping[str, str], reference: Model) -> _Side:
    by_output = {v.name: regions[label(node)] for node in reference.graph for v in node.outputs if v.name}
    joined: dict[str, str] = {}
    for node in model.graph:
        known = [regions.get(node.name or ""), *(by_output.get(v.name or "") for v in node.outputs)]
        region = next((r for r in known if r is not None), None)
        if region is not None:
            joined[label(node)] = region
    computing = frozenset(label(node) for node in model.graph if node.op_type in COMPUTE_OPS) & joined.keys()
    return _Side(profile, _regions(model, joined), frozenset(joined), computing)


def _regions(model: Model, fixed: Mapping[str, str]) -> dict[str, str]:
    """The region of every node of the main graph: its own, that of the last node before it, or of the first after."""
    order = list(model.graph)
    place = {id(node): i for i, node in enumerate(order)}
    found: list[str | None] = [fixed.get(label(node)) for node in order]
    for i, node in enumerate(order):
        before = [place[id(p)] for v in node.inputs if v is not None and (p := v.producer()) is not None]
        known = [k for k in before if found[k] is not None]
        if found[i] is None and known:
            found[i] = found[max(known)]
    for i in reversed(range(len(order))):
        after = [place[id(use.node)] for v in order[i].outputs for use in v.uses() if id(use.node) in place]
        known = [k for k in after if found[k] is not None]
        if found[i] is None and known:
            found[i] = found[min(known)]
    return {label(node): region or WHOLE for node, region in zip(order, found, strict=True)}


def _placed(side: _Side) -> list[str]:
    """The region of each kernel; one that stands for no node goes with the kernel before it."""
    found: list[str | None] = []
    for t in side.profile.times:
        sure = [name for name in t.nodes if name in side.joined]
        known = [side.regions[name] for name in [*sure, *t.nodes] if name in side.regions]
        found.append(known[0] if known else found[-1] if found else None)
    first = next((region for region in found if region is not None), WHOLE)
    return [region or first for region in found]


def _merged(*sides: _Side) -> dict[str, str]:
    """Regions -> the first of those that a kernel of either side computes together."""
    root: dict[str, str] = {name: name for name in sides[0].regions.values()}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    order = {name: i for i, name in enumerate(root)}
    for side in sides:
        for t in side.profile.times:
            together = sorted({find(side.regions[n]) for n in t.nodes if n in side.computing}, key=order.__getitem__)
            for name in together[1:]:
                root[name] = together[0]
    return {name: find(name) for name in root}


def _ranked(ops: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(ops, key=lambda op: -ops[op]))
