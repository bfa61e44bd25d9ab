"""Channel ids: which positions of which axes must live or die together.

Every position of an axis that could be cut has an id; a union-find unites the ids that cannot be cut apart. An axis
that nothing can be cut from has no ids (``None``). This is the dependency graph of DepGraph (Fang et al., 2023), kept
as sets instead of edges.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Axis", "Channels", "Ids"]

Ids: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Axis: TypeAlias = Ids | None
"""One id a position, or ``None``: the axis is never cut."""


class Channels:
    """A union-find over channel ids; mutable because rules unite and pin as they meet the nodes."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}

    def fresh(self, count: int) -> Ids:
        """``count`` ids that nothing else has."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def unite(self, first: Ids, second: Ids) -> None:
        """Ties the ids of two axes of equal length together, position by position."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self._join(a, b)

    def unite_all(self, ids: Ids) -> None:
        """Ties all these ids together."""
        flat = ids.ravel().tolist()
        for other in flat[1:]:
            self._join(flat[0], other)

    def pin(self, ids: Axis, reason: str) -> None:
        """Keeps these ids for good; the first reason is the one that is told."""
        if ids is None:
            return
        for root in {self._root(i) for i in ids.ravel().tolist()}:
            self._reason.setdefault(root, reason)

    def roots(self, ids: Ids) -> Ids:
        """The representative of each id."""
        return np.array([self._root(i) for i in ids.ravel().tolist()], np.int64).reshape(ids.shape)

    def reason(self, root: int) -> str | None:
        """Why a representative is pinned; ``None``: it may be cut."""
        return self._reason.get(root)

    def _root(self, item: int) -> int:
        parent = self._parent
        root = item
        while parent[root] != root:
            root = parent[root]
        while parent[item] != root:
            parent[item], item = root, parent[item]
        return root

    def _join(self, first: int, second: int) -> None:
        a, b = self._root(first), self._root(second)
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        self._parent[high] = low
        reason = self._reason.pop(high, None)
        if reason is not None:
            self._reason.setdefault(low, reason)
