"""What a model costs when some of its units are gone: parameters, multiply-accumulates, or predicted milliseconds.

Every term (a constant, a node) shrinks with the product of the shares of its axes that stay; the share of an axis is
linear in the number of units that each group keeps. So thousands of widths are priced by one matrix product. A factor
(a Conv that may become two) has a column behind those of the groups: the channels between the two, or the number that
stands for the Conv as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.cost import cost
from onnxopt.core.query import Model, label
from onnxopt.core.tensors import Array
from onnxopt.passes.constants import tensor_of
from onnxopt.pruning.channels import Axis
from onnxopt.pruning.factors import Factor
from onnxopt.pruning.structure import Group, Structure
from onnxopt.pruning.walk import Linear

__all__ = ["Costs", "Prices", "Share", "Term", "macs_costs", "node_shares", "params_costs", "sides", "widths"]

Share: TypeAlias = tuple[float, Mapping[int, float]]
WHOLE: Share = (1.0, {})
Prices: TypeAlias = Callable[[Array], Array]
"""The cost of each row of widths: (m, columns) -> (m,)."""


@dataclass(frozen=True, eq=False)
class Term:
    """One share of the cost: ``fixed + slope * (product of the shares of its axes that stay)``.

    Attributes:
        fixed: What stays whatever is cut.
        slope: What shrinks.
        axes: For each axis the share that no group can cut, and column -> share of each of its units.
        gate: The column of a factor, the number that stands for one whole Conv, and whether the term is for that one
            (or for the two that take its place); ``None``: the term always counts.
    """

    fixed: float
    slope: float
    axes: tuple[Share, ...]
    gate: tuple[int, int, bool] | None = None


class Costs:
    """Prices of widths: how many units each group keeps.

    Args:
        terms: The shares of the cost.
        columns: Number of groups and factors.
    """

    def __init__(self, terms: Sequence[Term], columns: int) -> None:
        cut = [replace(t, axes=t.axes or (WHOLE,)) for t in terms if t.gate or (t.axes and t.slope)]
        always = [t for t in terms if not t.gate and not (t.axes and t.slope)]
        self._fixed = sum(t.fixed + t.slope for t in always) + sum(t.fixed for t in cut if not t.gate)
        self._slope = np.array([t.slope for t in cut])
        self._gated = {i: (t.gate, t.fixed) for i, t in enumerate(cut) if t.gate}
        axes = [axis for t in cut for axis in t.axes]
        self._offset = np.array([fixed for fixed, _ in axes])
        self._units = np.zeros((len(axes), columns))
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
        """The cost of each row of ``kept``: (m, columns) -> (m,)."""
        kept = np.atleast_2d(kept)
        if not len(self._slope):
            return np.full(len(kept), self._fixed)
        shares = kept @ self._units.T + self._offset
        found = np.multiply.reduceat(shares, self._starts, axis=1) * self._slope
        for term, ((column, full, whole), fixed) in self._gated.items():
            found[:, term] = (found[:, term] + fixed) * ((kept[:, column] == full) == whole)
        return self._fixed + found.sum(axis=1)


def params_costs(structure: Structure, factors: Sequence[Factor] = ()) -> Costs:
    """Parameters of all constants with slots; others do not change."""
    count = _counter(structure)
    axes: dict[ir.Value, list[Share]] = {}
    for slot in structure.slots:
        axes.setdefault(slot.value, []).append(count(slot.ids))
    sizes = {value: float(tensor.size) for value in axes if (tensor := tensor_of(value)) is not None}
    terms: list[Term] = []
    for column, factor, (read, made) in sides(structure, factors):
        weight = factor.layer.linear.weight
        outputs, inputs, height, width = factor.shape
        whole = tuple(axes.pop(weight, ()))
        terms.append(Term(0.0, float(outputs * inputs * height * width), whole, (column, factor.full, True)))
        terms += _two(column, factor, inputs * height, outputs * width, read, made)
    terms += [Term(0.0, size, tuple(axes[value])) for value, size in sizes.items() if value in axes]
    return Costs(terms, len(structure.groups) + len(factors))


def macs_costs(
    model: Model, structure: Structure, shapes: Mapping[str, tuple[int, ...]], factors: Sequence[Factor] = ()
) -> Costs:
    """Multiply-accumulates of one call."""
    shares, macs = node_shares(model, structure), dict(cost(model, shapes).macs)
    terms: list[Term] = []
    for column, factor, (read, made) in sides(structure, factors):
        name = factor.layer.name
        terms.append(Term(0.0, float(macs.pop(name, 0)), shares.get(name, ()), (column, factor.full, True)))
        terms += _two(column, factor, factor.first_macs, factor.second_macs, read, made)
    terms += [Term(0.0, float(n), shares.get(name, ())) for name, n in macs.items()]
    return Costs(terms, len(structure.groups) + len(factors))


def _two(column: int, factor: Factor, first: int, second: int, read: Share, made: Share) -> list[Term]:
    """The terms of the two Convs, that cost ``first`` and ``second`` for each channel between them."""
    between: Share = (0.0, {column: 1 / factor.full})
    gate = (column, factor.full, False)
    pairs = ((first, read), (second, made))
    return [Term(0.0, float(each * factor.full), (between, side), gate) for each, side in pairs]


def sides(structure: Structure, factors: Sequence[Factor]) -> Iterator[tuple[int, Factor, tuple[Share, Share]]]:
    """For each factor its column, and the shares of the channels it reads and makes that stay."""
    count = _counter(structure)
    slots = {(slot.value, slot.axis): slot.ids for slot in structure.slots}
    for column, factor in enumerate(factors, len(structure.groups)):
        linear = factor.layer.linear
        ids = [slots.get((linear.weight, axis)) for axis in (linear.in_axis, linear.out_axis)]
        read, made = (WHOLE if found is None else count(found) for found in ids)
        yield column, factor, (read, made)


def node_shares(model: Model, structure: Structure) -> dict[str, tuple[Share, ...]]:
    """Label of a node of the main graph -> the shares of its work: the axes of what it makes, and what it sums over."""
    count = _counter(structure)
    by_node: dict[ir.Node, Linear] = {linear.node: linear for linear in structure.linears}
    slots = {(slot.value, slot.axis): slot.ids for slot in structure.slots}
    found: dict[str, tuple[Share, ...]] = {}
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


def _counter(structure: Structure) -> Callable[[Array], Share]:
    owner = {int(u): i for i, g in enumerate(structure.groups) for u in g.units}
    sizes = [len(g.units) for g in structure.groups]

    def count(ids: Array) -> Share:
        """The share of the positions that no group can cut, and the share of one unit of each group."""
        met = Counter(owner.get(int(r), -1) for r in structure.walk.channels.roots(ids).tolist())
        total = sum(met.values())
        return met.pop(-1, 0) / total, {g: n / total / sizes[g] for g, n in met.items()}

    return count


def widths(groups: Sequence[Group]) -> Array:
    """The units of each group: (groups,)."""
    return np.array([len(g.units) for g in groups])
