"""Closed-form repair of one linear layer: the weights that give back the original outputs from what is left to read.

Source: the ridge regression of Channel Pruning (He et al. 2017, https://arxiv.org/abs/1707.06168) around the present
weights: ``W = W0 + (H + lambda mean(diag H) I)^-1 (R - H W0)`` with ``H = Cov(x', x')`` and ``R = Cov(x', y)``, where
``x'`` are the rows of the pruned model and ``y`` the outputs of the original; the means go into the bias. lambda is the
one of least error on samples that were held out. With more rows than vectors the dual form is solved.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import linalg

from onnxopt.core.tensors import Array

__all__ = ["LAMBDAS", "WIDEST", "Sums", "Vectors", "solve", "solve_dual"]

LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0)
WIDEST = 5120
"""With more rows the matrices would not fit: the vectors themselves are kept instead."""
BUFFERED = 2048


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


def solve(fit: Sums, held: Sums, start: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Better weights (groups, rows, columns) and bias (groups, columns), or those given where none are better.

    Args:
        fit: Sums over the samples to fit to.
        held: Sums over other samples, which judge.
        start: Present weights of the rows that are left.
        bias: Present bias; ``None``: there is none, and none can be added.
    """
    fit.flush()
    held.flush()
    centered = bias is not None
    zero = np.zeros((start.shape[0], start.shape[2])) if bias is None else bias.astype(np.float64)
    judge = held if held.count else fit
    best, least = None, judge.error(start, zero)
    h, r, x, y = fit.moments(centered=centered)
    for strength in LAMBDAS:
        weight = _ridge(h, r, start, strength)
        error = judge.error(weight, _offset(weight, x, y) if centered else zero)
        if np.isfinite(error) and error < least:
            best, least = strength, error
    if best is None:
        return start, bias
    del h, r
    h, r, x, y = (fit + held).moments(centered=centered)
    weight = _ridge(h, r, start, best)
    return weight, (_offset(weight, x, y) if centered else None)


def _offset(weight: Array, x: Array, y: Array) -> Array:
    return y - np.einsum("gio,gi->go", weight, x)


def _ridge(h: Array, r: Array, start: Array, strength: float) -> Array:
    size = h.shape[1]
    damping = np.maximum(strength * np.trace(h, axis1=1, axis2=2) / max(size, 1), 1e-30)
    damped = h + np.eye(size) * damping[:, None, None]
    wanted = r - h @ start
    if len(h) > 1:
        return start + cast(Array, np.linalg.solve(damped, wanted))
    return start + _solved(damped[0], wanted[0])[None]


def _solved(matrix: Array, wanted: Array) -> Array:
    """``matrix^-1 wanted`` of a positive definite matrix, which is overwritten; NaN where it is not."""
    try:
        factor = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return np.multiply(wanted, np.nan)
    return linalg.cho_solve((factor, True), wanted, check_finite=False)


class Vectors:
    """The vectors themselves, for layers with more rows than matrices can hold. Mutable: vectors stream in."""

    def __init__(self) -> None:
        self.x: list[Array] = []
        self.y: list[Array] = []

    def update(self, x: Array, y: Array) -> None:
        """Adds vectors: (1, rows, n), (1, columns, n) float32."""
        self.x.append(x[0].T)
        self.y.append(y[0].T)


def solve_dual(fit: Vectors, held: Vectors, start: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """As ``solve`` for one group, by ``W = W0 + X^T (X X^T + lambda I)^-1 (Y - X W0)``."""
    x, y = np.concatenate(fit.x), np.concatenate(fit.y)
    test_x, test_y = (np.concatenate(held.x), np.concatenate(held.y)) if held.x else (x, y)
    centered = bias is not None
    mean_x, mean_y = (x.mean(axis=0), y.mean(axis=0)) if centered else (0.0 * x[0], 0.0 * y[0])
    rows = x - mean_x
    kernel = (rows @ rows.T).astype(np.float64)
    wanted = (y - mean_y - rows @ start[0]).astype(np.float64)
    before = 0.0 if bias is None else bias[0]
    least, best = float(((test_x @ start[0] + before - test_y) ** 2).mean()), (start, bias)
    for strength in LAMBDAS:
        damping = strength * float(np.trace(kernel)) / max(x.shape[1], 1)
        damped = kernel + np.eye(len(kernel)) * max(damping, 1e-30)
        dual = _solved(damped, wanted).astype(np.float32)
        weight = start[0] + rows.T @ dual
        moved = mean_y - weight.T @ mean_x if centered else None
        error = float(((test_x @ weight + (0.0 if moved is None else moved) - test_y) ** 2).mean())
        if np.isfinite(error) and error < least:
            least, best = error, (weight[None], None if moved is None else moved[None])
    return best
