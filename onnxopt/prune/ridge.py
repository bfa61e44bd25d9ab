"""Closed-form repair of one linear layer: the weights that give back the original outputs from what is left to read.

Source: the ridge regression of Channel Pruning (He et al. 2017, https://arxiv.org/abs/1707.06168) around the present
weights: ``W = W0 + (H + lambda mean(diag H) I)^-1 (R - H W0)`` with ``H = Cov(x', x')`` and ``R = Cov(x', y)``, where
``x'`` are the rows of the pruned model and ``y`` the outputs of the original; the means go into the bias. lambda is the
one of least error on samples that were held out. With more rows than vectors the dual form is solved.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from onnxopt.core.tensors import Array

__all__ = ["LAMBDAS", "WIDEST", "Sums", "Vectors", "solve", "solve_dual"]

LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0)
WIDEST = 5120
"""With more rows the matrices would not fit: the vectors themselves are kept instead."""
BUFFERED = 2048


class Sums:
    """Running sums of the rows ``x`` and the outputs ``y`` of one group of a layer. Mutable: vectors stream in."""

    def __init__(self, rows: int, columns: int) -> None:
        self.products = np.zeros((rows, rows), np.float32)
        self.cross = np.zeros((rows, columns), np.float32)
        self.x, self.y = np.zeros(rows), np.zeros(columns)
        self.energy, self.count = 0.0, 0
        self._waiting: list[tuple[Array, Array]] = []
        self._held = 0

    def update(self, x: Array, y: Array) -> None:
        """Adds vectors: (rows, n), (columns, n) float32."""
        self._waiting.append((x, y))
        self._held += x.shape[1]
        if self._held >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Adds what waits."""
        if not self._waiting:
            return
        x = np.concatenate([pair[0] for pair in self._waiting], axis=1)
        y = np.concatenate([pair[1] for pair in self._waiting], axis=1)
        self._waiting, self._held = [], 0
        self.products += x @ x.T
        self.cross += x @ y.T
        self.x += x.sum(axis=1, dtype=np.float64)
        self.y += y.sum(axis=1, dtype=np.float64)
        self.energy += float((y.astype(np.float64) ** 2).sum())
        self.count += x.shape[1]

    def __add__(self, other: Sums) -> Sums:
        both = Sums(0, 0)
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
        return h - np.outer(x, x), r - np.outer(x, y), x, y

    def error(self, weight: Array, bias: Array) -> float:
        """Sum of squares of ``W^T x + b - y``, over the count."""
        count = max(self.count, 1)
        w = weight.astype(np.float64)
        quadratic = float((w * (self.products @ w)).sum()) - 2 * float((w * self.cross).sum())
        linear = 2 * float(bias @ (w.T @ self.x)) - 2 * float(bias @ self.y) + count * float(bias @ bias)
        return (quadratic + linear + self.energy) / count


def solve(fit: Sums, held: Sums, start: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Better weights (rows, columns) and bias (columns,), or those given where none are better on what is held out.

    Args:
        fit: Sums over the samples to fit to.
        held: Sums over other samples.
        start: Present weights of the rows that are left.
        bias: Present bias; ``None``: there is none, and none can be added.
    """
    centered = bias is not None
    zero = np.zeros(start.shape[1]) if bias is None else bias.astype(np.float64)
    judge = held if held.count else fit
    best, least = None, judge.error(start, zero)
    h, r, x, y = fit.moments(centered=centered)
    for strength in LAMBDAS:
        weight = _ridge(h, r, start, strength)
        error = judge.error(weight, y - weight.T @ x if centered else zero)
        if np.isfinite(error) and error < least:
            best, least = strength, error
    if best is None:
        return start, bias
    h, r, x, y = (fit + held).moments(centered=centered)
    weight = _ridge(h, r, start, best)
    return weight, (y - weight.T @ x if centered else None)


def _ridge(h: Array, r: Array, start: Array, strength: float) -> Array:
    size = len(h)
    damping = strength * float(np.trace(h)) / max(size, 1)
    damped = h + np.eye(size) * max(damping, 1e-30)
    wanted = r - h @ start.astype(np.float64)
    return start + linalg.solve(damped, wanted, assume_a="pos", check_finite=False, overwrite_a=True)


class Vectors:
    """The vectors themselves, for layers with more rows than matrices can hold. Mutable: vectors stream in."""

    def __init__(self) -> None:
        self.x: list[Array] = []
        self.y: list[Array] = []

    def update(self, x: Array, y: Array) -> None:
        """Adds vectors: (rows, n), (columns, n) float32."""
        self.x.append(x.T)
        self.y.append(y.T)

    def flush(self) -> None:
        """Nothing waits."""


def solve_dual(fit: Vectors, held: Vectors, start: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """As ``solve``, by ``W = W0 + X^T (X X^T + lambda I)^-1 (Y - X W0)``."""
    x, y = np.concatenate(fit.x), np.concatenate(fit.y)
    test_x, test_y = (np.concatenate(held.x), np.concatenate(held.y)) if held.x else (x, y)
    centered = bias is not None
    mean_x, mean_y = (x.mean(axis=0), y.mean(axis=0)) if centered else (0.0 * x[0], 0.0 * y[0])
    rows = x - mean_x
    kernel = (rows @ rows.T).astype(np.float64)
    wanted = (y - mean_y - rows @ start).astype(np.float64)
    before = 0.0 if bias is None else bias
    least, best = float(((test_x @ start + before - test_y) ** 2).mean()), (start, bias)
    for strength in LAMBDAS:
        damping = strength * float(np.trace(kernel)) / max(x.shape[1], 1)
        dual = linalg.solve(kernel + np.eye(len(kernel)) * max(damping, 1e-30), wanted, assume_a="pos")
        weight = start + (rows.T @ dual.astype(np.float32))
        moved = mean_y - weight.T @ mean_x if centered else None
        error = float(((test_x @ weight + (0.0 if moved is None else moved) - test_y) ** 2).mean())
        if np.isfinite(error) and error < least:
            least, best = error, (weight, moved)
    return best
