"""Which layers to leave in float when conversions between floats and integers take time too: minimum cuts.

A layer in float gives its gain up, one on integers keeps its error, and a value whose maker and readers differ is
converted. For a price of the error the cheapest choice is a minimum cut (Greig, Porteous and Seheult 1989,
https://doi.org/10.1111/j.2517-6161.1989.tb01764.x): the side of the source runs on integers. The higher the price, the
more layers are in float, and with conversions priced they come in stretches instead of one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from onnxopt.core.query import Model, label
from onnxopt.quantization.forms import Quantizer, with_float
from onnxopt.quantization.mixed import MixedQuantize
from onnxopt.quantization.select import ACTIVATIONS
from onnxopt.quantization.static import StaticQuantize

__all__ = ["Border", "Group", "Layers", "borders", "in_float"]

Q = TypeVar("Q", bound=Quantizer)

START = 8192
"""A conversion takes as long as one of so many more elements: kernels have to start."""
FINEST = 1_000_000
"""Costs are whole numbers up to this."""
NEVER = 2_000_000_000
"""More than all costs together."""
LEAST_MS = 1e-6
"""Errors are divided by at least this time."""
PRICES = 2.0 ** np.arange(-14, 14.5, 0.5)
"""Tried as multiples of the whole gain for the whole error."""


@dataclass(frozen=True)
class Group:
    """Neighbouring layers that are quantized together or not at all.

    Attributes:
        nodes: Their labels.
        error: Noise over signal at the outputs when they alone run on integers.
        gain_ms: Time that integers save there.
    """

    nodes: tuple[str, ...]
    error: float
    gain_ms: float


@dataclass(frozen=True)
class Border:
    """A value that is converted when the node that makes it and one that reads it run in different forms.

    Attributes:
        maker: Label of the node.
        readers: Labels of the readers that can run on integers.
        elements: Size of the value.
    """

    maker: str
    readers: tuple[str, ...]
    elements: int


def borders(model: Model, item: Quantizer, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Border, ...]:
    """The values that carry codes between nodes when ``item`` quantizes ``model``.

    Args:
        model: The float model; it is not changed.
        item: How it is quantized; dynamic layers read and make floats.
        shapes: The shapes of its values.
    """
    if isinstance(item, MixedQuantize):
        item = with_float(item.static, item.dynamic_nodes or ())
    if not isinstance(item, StaticQuantize):
        return ()
    placement = item.placement(model)
    makers = {value: _maker(value, placement.produced) for value in placement.produced}
    capable = {*placement.nodes, *makers.values()}
    found: list[Border] = []
    for value, maker in makers.items():
        readers = tuple(label(n) for n in value.consumers() if n in capable)
        if maker is not None and readers:
            size = int(np.prod(shapes.get(value.name or "", ()), dtype=np.int64))
            found.append(Border(label(maker), readers, size))
    return tuple(found)


def _maker(value: ir.Value, produced: Sequence[ir.Value]) -> ir.Node | None:
    """What computes ``value``, ahead of an activation that the grid absorbs."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type in ACTIVATIONS else None
    return source.producer() if source is not None and source not in produced else node


def in_float(item: Q, kept: frozenset[Group]) -> Q:
    """``item`` with these groups in float."""
    return with_float(item, [name for group in sorted(kept, key=lambda g: g.nodes) for name in group.nodes])


@dataclass(frozen=True)
class Layers:
    """The layers of a model, with what each form of them costs.

    Attributes:
        groups: The layers, in graph order.
        borders: Values between them.
        element_ms: Time to convert one element.
    """

    groups: tuple[Group, ...]
    borders: tuple[Border, ...] = ()
    element_ms: float = 0.0

    def choices(self) -> list[frozenset[Group]]:
        """What to leave in float, from a low to a high price of the error; neither nothing nor everything.

        Each holds the one before it and one group more: where a price takes several at once, what has more error for
        its time comes first.
        """
        gain = sum(max(g.gain_ms, 0.0) for g in self.groups)
        error = sum(g.error for g in self.groups if np.isfinite(g.error))
        found = [frozenset[Group]()]
        for price in PRICES * (gain / error if gain > 0 and error > 0 else 1.0):
            kept, _ = self._cut([(max(g.gain_ms, 0.0), max(-g.gain_ms, 0.0) + price * g.error) for g in self.groups])
            found.append(found[-1] | kept)
        found.append(frozenset(self.groups))
        steps = itertools.pairwise(dict.fromkeys(found))
        return [kept for a, b in steps for kept in (*self._between(a, b), b)][:-1]

    def _between(self, first: frozenset[Group], last: frozenset[Group]) -> Iterator[frozenset[Group]]:
        """Choices from ``first`` to ``last``, one group more each."""
        parts = self.halves(last - first)
        if len(parts) == 2:
            spent = [max(self.cost_ms(first | part) - self.cost_ms(first), LEAST_MS) for part in parts]
            ranked = sorted(zip(parts, spent, strict=True), key=lambda item: -sum(g.error for g in item[0]) / item[1])
            middle = first | ranked[0][0]
            yield from self._between(first, middle)
            yield middle
            yield from self._between(middle, last)

    def losing(self) -> frozenset[Group]:
        """The groups that are faster in float."""
        return self._cut([(max(g.gain_ms, 0.0), max(-g.gain_ms, 0.0)) for g in self.groups])[0]

    def cost_ms(self, kept: frozenset[Group]) -> float:
        """Time given up, and spent on conversions, when ``kept`` are in float."""
        return sum(g.gain_ms for g in kept) + self._forced(kept)

    def crossing(self, kept: frozenset[Group]) -> float:
        """Elements that are converted when ``kept`` are in float, each conversion counted as ``START`` more."""
        return replace(self, element_ms=1.0)._forced(kept)

    def _forced(self, kept: frozenset[Group]) -> float:
        """What conversions cost when ``kept`` and no other groups are in float."""
        return self._cut([(0.0, np.inf) if g in kept else (np.inf, 0.0) for g in self.groups])[1]

    def halves(self, kept: frozenset[Group]) -> list[frozenset[Group]]:
        """``kept`` in two, cut in graph order; less than two groups as they are."""
        ordered = [g for g in self.groups if g in kept]
        middle = len(ordered) // 2
        return [frozenset(ordered[:middle]), frozenset(ordered[middle:])] if middle else [kept]

    def runs(self, kept: frozenset[Group]) -> list[frozenset[Group]]:
        """``kept`` in stretches of neighbours."""
        found: list[list[Group]] = []
        for before, group in zip((None, *self.groups), self.groups, strict=False):
            if group in kept:
                if before in kept:
                    found[-1].append(group)
                else:
                    found.append([group])
        return [frozenset(run) for run in found]

    def _cut(self, costs: Sequence[tuple[float, float]]) -> tuple[frozenset[Group], float]:
        """The groups in float in the cheapest choice, and its cost, for the cost of each in float and on integers."""
        edges = list(self._edges(costs))
        numbers = {name: i for i, name in enumerate(dict.fromkeys(name for a, b, _ in edges for name in (a, b)))}
        most = sum(in_float for in_float, _ in costs if in_float < np.inf)
        most = (most + sum(cost for a, b, cost in edges if cost < np.inf and b != _FLOAT and a != _INTEGER)) or 1.0
        scale = FINEST / most
        capacities: dict[tuple[int, int], int] = {}
        for first, second, cost in edges:
            # What costs more on integers than all else together is float in any case.
            whole = NEVER if cost == np.inf else round(min(cost, 2 * most) * scale)
            place = numbers[first], numbers[second]
            capacities[place] = min(capacities.get(place, 0) + whole, NEVER)
        values = np.fromiter(capacities.values(), np.int32, len(capacities))
        rows, columns = np.array(list(capacities)).T
        graph = csr_array((values, (rows, columns)), (len(numbers), len(numbers)))
        result = maximum_flow(graph, numbers[_INTEGER], numbers[_FLOAT])
        left = csr_array(((graph - result.flow) > 0).T)  # of equally cheap choices that with the most on integers
        reaching = set(breadth_first_order(left, numbers[_FLOAT], return_predecessors=False).tolist())
        kept = frozenset(g for i, g in enumerate(self.groups) if numbers[i] in reaching)
        return kept, float(result.flow_value) / scale

    def _edges(self, costs: Sequence[tuple[float, float]]) -> Iterator[tuple[object, object, float]]:
        """Directed edges with their capacities; nodes are groups by number, others by label, and two for a border."""
        group_of = {name: i for i, g in enumerate(self.groups) for name in g.nodes}
        for i, (in_float, on_integers) in enumerate(costs):
            yield _INTEGER, i, in_float
            yield i, _FLOAT, on_integers
        for border in self.borders:
            cost = self.element_ms * (border.elements + START)
            maker = group_of.get(border.maker, border.maker)
            readers = {group_of.get(name, name) for name in border.readers} - {maker}
            if cost <= 0 or not readers:
                continue
            dequantized, quantized = (border, "to float"), (border, "to integers")
            yield maker, dequantized, cost
            yield quantized, maker, cost
            for reader in readers:
                yield dequantized, reader, np.inf
                yield reader, quantized, np.inf


_INTEGER, _FLOAT = "(integers)", "(float)"
