"""What a pruned model is to cost, and the search for the widths that meet it with the least error."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal, TypeAlias

import numpy as np

from onnxopt.core.cost import cost
from onnxopt.core.tensors import Array
from onnxopt.evaluate.compare import Scorer
from onnxopt.pruning.costs import Costs, Prices, macs_costs, params_costs
from onnxopt.pruning.plan import Menu, aligned, plans
from onnxopt.pruning.pruner import Pruned, Pruner
from onnxopt.pruning.times import DEFAULT_BLOCK, latency_costs, quick_ratio
from onnxopt.run.session import Feeds

__all__ = ["Goal", "Kind", "Price", "Tried", "open_price", "search"]

Kind: TypeAlias = Literal["latency", "macs", "params"]

CLOSE = 0.008
"""A latency this near to the goal is not adjusted further."""
ADJUSTMENTS = 6
SLOWER = 1.05
"""Quick measurements above this put a model behind all others; the final measurement decides about the rest."""
NEAR_DB, HALF_DB = 2.0, 6.0
"""Among forms whose error is this near to the least, half of the time is worth so much."""
MOST_WAYS = 12
BLOCKS, RANKS, BOTH, CHANNELS = ", for speed", ", ranks", ", channels and ranks", ""
SLACK = 0.01
"""What a measured latency may lie above the goal while widths are searched; the final measurement decides."""


@dataclass(frozen=True)
class Goal:
    """A share of the input model's cost that the result may have.

    Attributes:
        kind: Of what.
        ratio: Between 0 and 1.
    """

    kind: Kind
    ratio: float


@dataclass(frozen=True, eq=False)
class Price:
    """The cost of widths, as a share of the whole.

    Attributes:
        kind: Of what.
        costs: Prices.
        whole: The cost of the input model.
        least: The share that the narrowest widths cost.
    """

    kind: Kind
    costs: Costs
    whole: float
    least: float


@dataclass(frozen=True, eq=False)
class Tried:
    """One way to share the cut out.

    Attributes:
        name: Its name.
        kept: Units that each group keeps.
        share: Its cost as a share of the whole: counted, or measured in this process.
        pruned: The repaired model; ``None``: time ran out before it was tried.
        latency: As a share of that of the input, measured quickly where another cost is the goal; NaN elsewhere.
    """

    name: str
    kept: Array
    share: float
    pruned: Pruned | None
    latency: float = math.nan


def open_price(pruner: Pruner, kind: Kind, feeds: Sequence[Feeds]) -> Price:
    """How the model's cost follows from widths."""
    model, structure, factors = pruner.model, pruner.structure, pruner.factors
    full = pruner.choices.full
    if kind == "latency":
        costs = latency_costs(pruner, feeds)
        whole = float(costs(full)[0])
        low = quick_ratio(pruner.reference, pruner.bare(pruner.choices.least, "least"), feeds, pruner.ctx.target)
        return Price(kind, costs, whole, low)
    known = cost(model, pruner.shapes)
    macs = kind == "macs"
    costs = macs_costs(model, structure, pruner.shapes, factors) if macs else params_costs(structure, factors)
    rest = known.params - float(costs(full)[0]) if kind == "params" else 0.0
    costs = costs.plus(rest)
    whole = float(costs(full)[0])
    return Price(kind, costs, whole, float(costs(pruner.choices.least)[0]) / max(whole, 1e-30))


def search(
    pruner: Pruner,
    price: Price,
    ratio: float,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    time_limit: float,
    only: str | None = None,
) -> list[Tried]:
    """The ways that were tried, the best first: by output error on held-back samples, and by time.

    Args:
        pruner: The model.
        price: Its cost.
        ratio: The share that may stay.
        scorer: Judges on held-back samples.
        feeds: Inputs to check and to time on.
        time_limit: Seconds after which no further way is begun; the first is always done.
        only: The way of this name, where there is one.
    """
    start = time.monotonic()
    found: list[Tried] = []
    ways = _ways(pruner, price, ratio, feeds)
    for name, choices, planned in [way for way in ways if way[0] == only] or ways:
        spent = time.monotonic() - start
        if found and spent * (1 + 1 / len(found)) > time_limit:
            found.append(Tried(name, choices.full, math.nan, None))
            continue
        kept, share = planned, float(price.costs(planned)[0]) / price.whole
        if price.kind == "latency":
            kept, share = _timed(pruner, price, ratio, choices, name, planned, feeds)
        if not any(np.array_equal(kept, t.kept) for t in found):
            found.append(Tried(name, kept, share, pruner.make(name, kept, scorer, feeds)))
    if price.kind == "latency":
        return sorted(found, key=lambda t: -_quality(t))
    timed = [t if t.pruned is None else replace(t, latency=_latency(pruner, t.pruned, feeds)) for t in found]
    best = max((_quality(t) for t in timed if t.latency < SLOWER), default=-math.inf)
    near = {t.name for t in timed if t.latency < SLOWER and _quality(t) >= best - NEAR_DB}
    ordered = sorted(timed, key=lambda t: (t.latency >= SLOWER, -_quality(t)))
    return sorted(ordered, key=lambda t: HALF_DB * math.log2(t.latency) - _quality(t) if t.name in near else math.inf)


def _ways(pruner: Pruner, price: Price, ratio: float, feeds: Sequence[Feeds]) -> list[tuple[str, Menu, Array]]:
    """The plans, by name, with the widths each may use.

    Channels and ranks together, each alone; fine ones, and ones made for speed: for the blocks of the kernels, and with
    no more of the time than of the parameters. The first plans of each come first.
    """
    goal, groups = price.whole * ratio, len(pruner.structure.groups)
    columns = range(len(pruner.choices.full))
    channels, ranks = pruner.choices.whole(columns[groups:]), pruner.choices.whole(columns[:groups])
    menus = {BOTH: pruner.choices, CHANNELS: channels, RANKS: ranks} if pruner.factors and groups else {}
    menus = menus or {RANKS if pruner.factors else CHANNELS: pruner.choices}
    prices: list[tuple[str, Menu, Prices]] = [(kind, choices, price.costs) for kind, choices in menus.items()]
    if price.kind != "latency":
        costs = _with_time(pruner, price, feeds) if price.kind == "params" else price.costs
        fast = [(f"{n}{BLOCKS}", aligned(c, pruner.structure.groups, DEFAULT_BLOCK), costs) for n, c in menus.items()]
        prices = [fast[0], *prices[1:], prices[0], *fast[1:]]
    found = [
        [(name + kind, choices, kept) for name, kept in plans(choices, costs, goal).items()]
        for kind, choices, costs in prices
        if float(costs(choices.least)[0]) <= goal or len(prices) == 1
    ]
    return [way for turn in zip_longest(*found) for way in turn if way is not None][:MOST_WAYS]


def _with_time(pruner: Pruner, price: Price, feeds: Sequence[Feeds]) -> Prices:
    """The cost, or the same share of the predicted time where that is more."""
    time_ms = latency_costs(pruner, feeds)
    scale = price.whole / max(float(time_ms(pruner.choices.full)[0]), 1e-30)
    return lambda kept: np.maximum(price.costs(kept), time_ms(kept) * scale)


def _latency(pruner: Pruner, pruned: Pruned, feeds: Sequence[Feeds]) -> float:
    """Cutting can make a model slower: widths that fill no block may take longer than the whole."""
    return quick_ratio(pruner.reference, pruned.path, feeds, pruner.ctx.target)


def _quality(tried: Tried) -> float:
    return tried.pruned.sqnr_db if tried.pruned is not None else -math.inf


def _timed(
    pruner: Pruner,
    price: Price,
    ratio: float,
    choices: Menu,
    name: str,
    planned: Array,
    feeds: Sequence[Feeds],
) -> tuple[Array, float]:
    """Widths of one kind of plan, begun with ``planned``, whose measured latency is nearest to the goal; and it."""
    aim, kept = ratio, planned
    best: tuple[float, Array, float] = (float("inf"), pruner.choices.least, price.least)
    seen: set[bytes] = set()
    for _ in range(ADJUSTMENTS):
        if kept.tobytes() in seen:
            break
        seen.add(kept.tobytes())
        share = quick_ratio(pruner.reference, pruner.bare(kept, "timed"), feeds, pruner.ctx.target)
        distance = abs(share - ratio) + (1.0 if share > ratio + SLACK else 0.0)
        if distance < best[0]:
            best = (distance, kept, share)
        if abs(share - ratio) <= CLOSE:
            break
        aim = float(np.clip(aim + (ratio - share), 0.02, 1.0))
        found = plans(choices, price.costs, price.whole * aim)
        kept = found.get(name.split(",")[0], next(iter(found.values())))
    return best[1], best[2]
