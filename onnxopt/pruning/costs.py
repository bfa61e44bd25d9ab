"""What a model costs when some of its units are gone: parameters, multiply-accumulates, or predicted milliseconds.

Every term (a constant, a node) shrinks with the product of the shares of its axes that stay; the share of an axis is
linear in the number of units that each group keeps. So thousands of widths are priced by one matrix product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.cost import cost
from onnxopt.core.query import Model, label
from onnxopt.core.tensors import Array
from onnxopt.passes.constants import tensor_of
from onnxopt.pruning.channels import Axis
from onnxopt.pruning.structure import Group, Structure
from onnxopt.pruning.walk import Linear

__all__ = ["Costs", "Term", "macs_costs", "node_shares", "params_costs", "widths"]


@dataclass(frozen=True, eq=False)
class Term:
    """One share of the cost: ``fixed + slope * (product of the shares of its axes that stay)``.

    Attributes:
        fixed: What stays whatever is cut.
        slope: What shrinks.
        axes: For each axis the share that no group can cut, and group number -> share of each of its units.
    """

    fixed: float
    slope: float
    axes: tuple[tuple[float, Mapping[int, float]], ...]


class Costs:
    """Prices of widths: how many units each group keeps.

    Args:
        terms: The shares of the cost.
        groups: Number of groups.
    """

    def __init__(self, terms: Sequence[Term], groups: int) -> None:
        cut = [t for t in terms if t.axes and t.slope]
        self._fixed = sum(t.fixed for t in terms) + sum(t.slope for t in terms if not t.axes)
        self._slope = np.array([t.slope for t in cut])
        axes = [axis for t in cut for axis in t.axes]
        self._offset = np.array([fixed for fixed, _ in axes])
        self._units = np.zeros((len(axes), groups))
        for row, (_, shares) in enumerate(axes):
            for group, share in shares.items():
                self._units[row, group] = share
        self._starts = np.cumsum([0, *(len(t.axes) for t in cut[:-1])]) if cut else np.zeros(0, np.int64)

    def plus(self, fixed: float) -> Costs:
        """The same with something added that no cut changes."""
        other = copy(self)
        other._fixed = self._fixed + fixed
        return other

    def __call__(self, kept: Array) -> Array:
        """The cost of each row of ``kept``: (m, groups) units -> (m,)."""
        kept = np.atleast_2d(kept)
        if not len(self._slope):
            return np.full(len(kept), self._fixed)
        shares = kept @ self._units.T + self._offset
        return self._fixed + np.multiply.reduceat(shares, self._starts, axis=1) @ self._slope


def params_costs(structure: Structure) -> Costs:
    """Parameters of all constants with slots; others do not change."""
    count = _counter(structure)
    axes: dict[ir.Value, list[tuple[float, Mapping[int, float]]]] = {}
    for slot in structure.slots:
        axes.setdefault(slot.value, []).append(count(slot.ids))
    terms: list[Term] = []
    for value, shares in axes.items():
        tensor = tensor_of(value)
        if tensor is not None:
            terms.append(Term(0.0, float(tensor.size), tuple(shares)))
    return Costs(terms, len(structure.groups))


def macs_costs(model: Model, structure: Structure, shapes: Mapping[str, tuple[int, ...]]) -> Costs:
    """Multiply-accumulates of one call."""
    shares = node_shares(model, structure)
    terms = [Term(0.0, float(n), shares.get(name, ())) for name, n in cost(model, shapes).macs.items()]
    return Costs(terms, len(structure.groups))


def node_shares(model: Model, structure: Structure) -> dict[str, tuple[tuple[float, Mapping[int, float]], ...]]:
    """Label of a node of the main graph -> the shares of its work: the axes of what it makes, and what it sums over."""
    count = _counter(structure)
    by_node: dict[ir.Node, Linear] = {linear.node: linear for linear in structure.linears}
    slots = {(slot.value, slot.axis): slot.ids for slot in structure.slots}
    found: dict[str, tuple[tuple[float, Mapping[int, float]], ...]] = {}
    for node in model.graph:
        made: list[Axis] = []
        for output in node.outputs[:1]:
            made += structure.walk.made(output)
        linear = by_node.get(node)
        if linear is not None and linear.in_axis >= 0:
            made.append(slots.get((linear.weight, linear.in_axis)))
        shares = tuple(count(ids) for ids in made if ids is not None)
        if shares:
            found[label(node)] = shares
    return found


def _counter(structure: Structure) -> Callable[[Array], tuple[float, Mapping[int, float]]]:
    owner = {int(u): i for i, g in enumerate(structure.groups) for u in g.units}
    sizes = [len(g.units) for g in structure.groups]

    def count(ids: Array) -> tuple[float, Mapping[int, float]]:
        """The share of the positions that no group can cut, and the share of one unit of each group."""
        met = Counter(owner.get(int(r), -1) for r in structure.walk.channels.roots(ids).tolist())
        total = sum(met.values())
        return met.pop(-1, 0) / total, {g: n / total / sizes[g] for g, n in met.items()}

    return count


def widths(groups: Sequence[Group]) -> Array:
    """The units of each group: (groups,)."""
    return np.array([len(g.units) for g in groups])
