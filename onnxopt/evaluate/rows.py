"""Rows of sums: what a metric keeps of each judged item, so that scores and their bounds come from one table."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "RowBuffer", "Rows", "paired_rows", "regroup"]

Array: TypeAlias = np.ndarray[Any, Any]
Rows: TypeAlias = npt.NDArray[np.float64]
"""``(n, k) float64``: one row an item of the batch axis; a score is a function of the column sums."""

VALUES = 4_000_000
"""Numbers a buffer holds (32 MB); beyond it neighbouring rows are added up."""


class RowBuffer:
    """Collects rows in bounded memory; mutable because the rows stream in.

    Past ``limit`` numbers each two neighbouring rows become one: sums stay exact, and items that are independent stay
    independent in groups. Rows may be of growing width (more classes seen): the missing columns are zero.

    Attributes:
        items: Rows that were added.
        group: Items that one kept row stands for, a power of two.
    """

    def __init__(self, limit: int = VALUES) -> None:
        self.items = 0
        self.group = 1
        self._limit = limit
        self._sums: Rows = np.zeros((0, 0))

    def add(self, rows: Rows) -> None:
        """Takes ``rows: (n, k) float64``."""
        count, width = rows.shape
        width = max(width, self._sums.shape[1])
        while self.group < 1 << 40 and -(-(self.items + count) // self.group) * width > self._limit:
            self._sums = regroup(self._sums, 2)
            self.group *= 2
        needed = -(-(self.items + count) // self.group)
        if needed > len(self._sums) or width > self._sums.shape[1]:
            length = len(self._sums) if needed <= len(self._sums) else max(needed, 2 * len(self._sums))
            grown = np.zeros((length, width))
            grown[: len(self._sums), : self._sums.shape[1]] = self._sums
            self._sums = grown
        wide = np.zeros((count, self._sums.shape[1]))
        wide[:, : rows.shape[1]] = rows
        places: npt.NDArray[np.int64] = np.arange(self.items, self.items + count, dtype=np.int64) // self.group
        np.add.at(self._sums, places, wide)
        self.items += count

    def rows(self) -> Rows:
        """The kept rows, ``(ceil(items / group), k) float64``."""
        return self._sums[: -(-self.items // self.group)]


def regroup(rows: Rows, factor: int) -> Rows:
    """Each ``factor`` neighbouring rows added up: ``(n, k)`` to ``(ceil(n / factor), k)``."""
    count, width = rows.shape
    groups = -(-count // factor)
    padded = np.zeros((groups * factor, width))
    padded[:count] = rows
    return padded.reshape(groups, factor, width).sum(axis=1)


def paired_rows(first: RowBuffer, second: RowBuffer) -> tuple[Rows, Rows]:
    """The rows of two buffers over the same items, in the same grouping and width."""
    group = max(first.group, second.group)
    tables = [regroup(b.rows(), group // b.group) if b.group < group else b.rows() for b in (first, second)]
    width = max(t.shape[1] for t in tables)
    wide = [np.pad(t, ((0, 0), (0, width - t.shape[1]))) for t in tables]
    return wide[0], wide[1]
