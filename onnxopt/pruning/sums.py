"""Running second moments of what a layer reads with what it should give: all that a regression on them needs."""

from __future__ import annotations

import numpy as np

from onnxopt.core.tensors import Array

__all__ = ["Sums"]

BUFFERED = 2048
"""Vectors that are added at once."""


class Sums:
    """Running sums of the rows ``x`` and the outputs ``y`` of the groups of a layer. Mutable: vectors stream in."""

    def __init__(self, groups: int, rows: int, columns: int) -> None:
        self.products = np.zeros((groups, rows, rows), np.float32)
        self.cross = np.zeros((groups, rows, columns), np.float32)
        self.x, self.y = np.zeros((groups, rows)), np.zeros((groups, columns))
        self.energy, self.count = 0.0, 0
        self._waiting: list[tuple[Array, Array]] = []
        self._held = 0

    def update(self, x: Array, y: Array) -> None:
        """Adds vectors: (groups, rows, n), (groups, columns, n) float32."""
        self._waiting.append((x, y))
        self._held += x.shape[2]
        if self._held >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Adds what waits."""
        if not self._waiting:
            return
        x = np.concatenate([pair[0] for pair in self._waiting], axis=2)
        y = np.concatenate([pair[1] for pair in self._waiting], axis=2)
        self._waiting, self._held = [], 0
        self.products += x @ x.transpose(0, 2, 1)
        self.cross += x @ y.transpose(0, 2, 1)
        self.x += x.sum(axis=2, dtype=np.float64)
        self.y += y.sum(axis=2, dtype=np.float64)
        self.energy += float((y.astype(np.float64) ** 2).sum())
        self.count += x.shape[2]

    def __add__(self, other: Sums) -> Sums:
        both = Sums(0, 0, 0)
        both.products, both.cross = self.products + other.products, self.cross + other.cross
        both.x, both.y = self.x + other.x, self.y + other.y
        both.energy, both.count = self.energy + other.energy, self.count + other.count
        return both

    def moments(self, *, centered: bool) -> tuple[Array, Array, Array, Array]:
        """``H``, ``R`` and the means of x and y (zero when not centred), all over the count, float64."""
        count = max(self.count, 1)
        h, r = self.products.astype(np.float64) / count, self.cross.astype(np.float64) / count
        x, y = self.x / count, self.y / count
        if not centered:
            return h, r, np.zeros_like(x), np.zeros_like(y)
        h -= x[:, :, None] * x[:, None, :]
        r -= x[:, :, None] * y[:, None, :]
        return h, r, x, y

    def error(self, weight: Array, bias: Array) -> float:
        """Sum of squares of ``W^T x + b - y`` over all groups, over the count; weight (groups, rows, columns)."""
        count = max(self.count, 1)
        w = weight.astype(np.float32)
        quadratic = float((w * (self.products @ w)).sum(dtype=np.float64))
        cross = -2 * float((w * self.cross).sum(dtype=np.float64))
        linear = 2 * float((bias * (np.einsum("gio,gi->go", w, self.x) - self.y)).sum()) + count * float(
            (bias**2).sum()
        )
        return (quadratic + cross + linear + self.energy) / count
