"""How many units each group keeps for a goal, and the rank of each Conv that may become two.

There are several ways to share the cut out, among which measurement decides.
Error curves of different groups do not say how an error reaches the output, so no single rule is best (uniform widths
beat the greedy ones at deep cuts, and lose at shallow ones): each plan here is repaired and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.pruning.costs import Prices
from onnxopt.pruning.factors import Factor
from onnxopt.pruning.importance import Ranking
from onnxopt.pruning.structure import Group

__all__ = ["Menu", "Ranks", "aligned", "menu", "plans", "units_to_cut"]

Ranks: TypeAlias = tuple[Factor, Callable[[Array], Array]]
"""A Conv that may become two, and the error of ascending ranks, of which the last stands for the Conv as it is."""

LEAST_SHARE = 0.125
"""Of its units that a group keeps at least."""
PAYS = 0.9
"""Share of the work of the one Conv that the two may take at most."""
BINS = 2000
"""Steps of the cost in dynamic programming."""
MOST_WIDTHS = 24
NARROW = 4
"""A group that holds fewer than so many blocks is cut in smaller ones."""


@dataclass(frozen=True, eq=False)
class Menu:
    """The widths that each group may have, and behind them the ranks of each Conv that may become two.

    Attributes:
        choices: For each group or factor the numbers it may keep, ascending; the last stands for all.
        errors: For each the error of each choice.
    """

    choices: tuple[Array, ...]
    errors: tuple[Array, ...]

    @property
    def full(self) -> Array:
        """All units of every group."""
        return np.array([c[-1] for c in self.choices])

    @property
    def least(self) -> Array:
        """The fewest units of every group."""
        return np.array([c[0] for c in self.choices])

    def near(self, wanted: Array) -> Array:
        """For each group the choice nearest to a number of units."""
        return np.array([c[np.abs(c - w).argmin()] for c, w in zip(self.choices, wanted, strict=True)])

    def whole(self, columns: Collection[int]) -> Menu:
        """The same, with some groups or factors left whole."""
        pairs = list(zip(self.choices, self.errors, strict=True))
        choices = tuple(c[-1:] if i in columns else c for i, (c, _) in enumerate(pairs))
        return Menu(choices, tuple(e[-1:] if i in columns else e for i, (_, e) in enumerate(pairs)))

    def error(self, kept: Array) -> float:
        """The summed error of the choices."""
        pairs = zip(self.choices, self.errors, kept, strict=True)
        return float(sum(e[np.searchsorted(c, k)] for c, e, k in pairs))


def menu(rankings: Sequence[Ranking], ranks: Sequence[Ranks], block: int, *, strict: bool) -> Menu:
    """The multiples of the block, and the whole.

    Args:
        rankings: One for each group.
        ranks: One for each factor.
        block: Channels that the kernels of the target take together.
        strict: Whether narrow groups are cut in whole blocks too: less would not be faster.
    """
    choices: list[Array] = []
    errors: list[Array] = []
    for ranking in rankings:
        count = len(ranking.group.units)
        choices.append(_multiples(count, count, _step(ranking.group, block, strict=strict)))
        errors.append(ranking.error[count - choices[-1]])
    for factor, error in ranks:
        top = int(factor.full * PAYS) + 1
        choices.append(_multiples(top, factor.full, _smaller(block, factor.full, strict=strict)))
        errors.append(error(choices[-1]))
    return Menu(tuple(choices), tuple(errors))


def _multiples(stop: int, whole: int, step: int) -> Array:
    """The multiples of ``step``, larger where they are many, below ``stop`` that are not too few; and the whole."""
    while stop / step > MOST_WIDTHS:
        step *= 2
    least = max(step, int(np.ceil(whole * LEAST_SHARE / step)) * step, 1)
    return np.append(np.arange(least, stop, step), whole)


def aligned(choices: Menu, groups: Sequence[Group], block: int) -> Menu:
    """The choices that fill half blocks, from one whole block on: kernels for blocks fall back below that."""
    masks: list[Array] = []
    for column, widths in enumerate(choices.choices):
        step = _step(groups[column], block, strict=True) if column < len(groups) else block
        masks.append((widths >= step) & (widths % max(1, step // 2) == 0) | (widths == widths[-1]))
    pairs = list(zip(masks, choices.choices, choices.errors, strict=True))
    return Menu(tuple(c[m] for m, c, _ in pairs), tuple(e[m] for m, _, e in pairs))


def _step(group: Group, block: int, *, strict: bool) -> int:
    """Units that fill a block: heads and other units of several channels count as so many."""
    positions = max(int((len(slot.ids)) // max(len(np.unique(slot.ids)), 1)) for slot in group.slots)
    return _smaller(max(1, block // positions), len(group.units), strict=strict)


def _smaller(step: int, count: int, *, strict: bool) -> int:
    """A smaller step where few would fit."""
    while not strict and step > 1 and count < NARROW * step:
        step //= 2
    return step


def units_to_cut(rankings: Sequence[Ranking], kept: Array) -> frozenset[int]:
    """The units that go when each group keeps so many; what is behind the groups is not looked at."""
    pairs = zip(rankings, kept[: len(rankings)], strict=True)
    return frozenset(int(u) for r, k in pairs for u in r.order[: len(r.order) - int(k)])


def plans(choices: Menu, costs: Prices, goal: float) -> dict[str, Array]:
    """Widths whose cost is at most ``goal``, by name of the way they were found; without duplicates."""
    level = _uniform(choices, costs, goal)
    greedy = _settled(choices, costs, goal, choices.full)
    found = {"dynamic programming": _dynamic(choices, costs, goal, level), "uniform": level, "greedy": greedy}
    for share in (0.5, 0.25, 0.75):
        mixed = choices.near(share * level + (1 - share) * greedy)
        found[f"{share:.0%} uniform"] = _settled(choices, costs, goal, mixed)
    unique: dict[bytes, str] = {}
    for name, kept in found.items():
        unique.setdefault(kept.tobytes(), name)
    return {name: found[name] for name in unique.values()}


def _uniform(choices: Menu, costs: Prices, goal: float) -> Array:
    """The same share of every group, the largest that meets the goal."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if costs(choices.near(choices.full * middle))[0] <= goal:
            low = middle
        else:
            high = middle
    kept = choices.near(choices.full * low)
    return _settled(choices, costs, goal, kept)


def _greedy(choices: Menu, costs: Prices, goal: float, start: Array) -> Array:
    """Takes a step at a time where the error grows least for what is saved."""
    kept = start.copy()
    at = _places(choices, kept)
    now = costs(kept)[0]
    while now > goal and (at > 0).any():
        movable = np.flatnonzero(at > 0)
        tried = np.repeat(kept[None], len(movable), axis=0)
        growth = np.empty(len(movable))
        for row, group in enumerate(movable):
            tried[row, group] = choices.choices[group][at[group] - 1]
            errors = choices.errors[group]
            growth[row] = errors[at[group] - 1] - errors[at[group]]
        saved = now - costs(tried)
        useful = saved > 0
        if not useful.any():
            break
        ratio = np.where(useful, np.maximum(growth, 1e-12) / np.where(useful, saved, 1.0), np.inf)
        best = int(ratio.argmin())
        at[movable[best]] -= 1
        kept, now = tried[best], now - saved[best]
    return kept


def _places(choices: Menu, kept: Array) -> Array:
    """The place of each width among the choices of its group."""
    return np.array([int((c < k).sum()) for c, k in zip(choices.choices, kept, strict=True)])


def _settled(choices: Menu, costs: Prices, goal: float, kept: Array) -> Array:
    """``kept`` cut further until it meets the goal, then widened where the goal leaves room."""
    kept = _greedy(choices, costs, goal, kept)
    at = _places(choices, kept)
    while True:
        movable = [g for g, c in enumerate(choices.choices) if at[g] + 1 < len(c)]
        if not movable:
            return kept
        tried = np.repeat(kept[None], len(movable), axis=0)
        gain = np.empty(len(movable))
        for row, group in enumerate(movable):
            tried[row, group] = choices.choices[group][at[group] + 1]
            errors = choices.errors[group]
            gain[row] = errors[at[group]] - errors[at[group] + 1]
        prices = costs(tried)
        fits = prices <= goal
        if not fits.any():
            return kept
        best = int(np.where(fits, gain, -1.0).argmax())
        at[movable[best]] += 1
        kept = tried[best]


def _dynamic(choices: Menu, costs: Prices, goal: float, around: Array) -> Array:
    """Least summed error for the goal, each group priced with the others as in ``around`` (HALP, SPDY: a knapsack)."""
    kept = around
    for _ in range(2):
        base = costs(kept)[0]
        prices: list[Array] = []
        for group, widths_ in enumerate(choices.choices):
            tried = np.repeat(kept[None], len(widths_), axis=0)
            tried[:, group] = widths_
            prices.append(costs(tried) - base)
        found = _knapsack(choices, prices, goal - base)
        if found is None:
            break
        kept = _settled(choices, costs, goal, found)
    return kept


def _knapsack(choices: Menu, prices: Sequence[Array], room: float) -> Array | None:
    """The choice of each group of least summed error whose price is at most ``room``; ``None``: there is none."""
    floor = sum(float(p.min()) for p in prices)
    if room < floor:
        return None
    step = max((sum(float(p.max()) for p in prices) - floor) / BINS, 1e-30)
    limit = int((room - floor) / step)
    best = np.full(limit + 1, np.inf)
    best[0] = 0.0
    picks: list[Array] = []
    for price, errors in zip(prices, choices.errors, strict=True):
        weight = np.floor((price - price.min()) / step).astype(int)
        new, pick = np.full(limit + 1, np.inf), np.zeros(limit + 1, int)
        for index, (w, error) in enumerate(zip(weight, errors, strict=True)):
            if w > limit:
                continue
            moved = np.concatenate([np.full(w, np.inf), best[: limit + 1 - w] + error])
            better = moved < new
            new[better], pick[better] = moved[better], index
        best = new
        picks.append(pick)
    at = int(best.argmin())
    if not np.isfinite(best[at]):
        return None
    kept: list[int] = []
    for price, pick, widths_ in zip(reversed(prices), reversed(picks), reversed(choices.choices), strict=True):
        index = int(pick[at])
        kept.append(int(widths_[index]))
        at -= int(np.floor((price[index] - price.min()) / step))
    return np.array(kept[::-1])
