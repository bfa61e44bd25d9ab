"""Closed-form repair of one linear layer: the weights that give back the original outputs from what is left to read.

Source: the ridge regression of Channel Pruning (He et al. 2017, https://arxiv.org/abs/1707.06168) around the present
weights: ``W = W0 + (H + lambda mean(diag H) I)^-1 (R - H W0)`` with ``H = Cov(x', x')`` and ``R = Cov(x', y)``, where
``x'`` are the rows of the pruned model and ``y`` the outputs of the original; the means go into the bias. lambda is the
one of least error on samples that were held out. With more rows than vectors the dual form is solved.

Where a Relu or Clip follows, what it cuts off does not count: outputs of the original outside its bounds are replaced
by those of the repaired layer as long as they lie on the same side, and the regression is repeated (the nonlinear case
of Zhang et al. 2015, https://arxiv.org/abs/1505.06798). Where a sum follows, both sides are compared behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import linalg

from onnxopt.core.tensors import Array

__all__ = ["LAMBDAS", "WIDEST", "Bounds", "Vectors", "solve"]

LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0)
WIDEST = 5120
"""With more rows than this, and than vectors, the dual form is solved."""
ROUNDS = 3
"""Regressions after the first where a Relu or Clip follows."""


@dataclass(frozen=True)
class Bounds:
    """What a Relu or Clip behind the layer lets through."""

    low: float = -np.inf
    high: float = np.inf

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        return self.low == -np.inf and self.high == np.inf

    def apply(self, values: Array) -> Array:
        """What passes."""
        return values if self.is_open else np.clip(values, self.low, self.high)


class Vectors:
    """Rows and outputs of the groups of a layer, those that judge behind those to fit to. Mutable: they stream in.

    Attributes:
        x: (groups, rows, n) float32 of the pruned model.
        y: (groups, columns, n) float32: the outputs of the original, with what is added to them behind.
        added: Like ``y``: what is added behind the layer in the pruned model.
        fitted: Number of vectors to fit to; the others judge.
        bounds: What passes behind the sum.
    """

    def __init__(self, groups: int, rows: int, columns: int, most: int, bounds: Bounds) -> None:
        self.x = np.empty((groups, rows, most), np.float32)
        self.y = np.empty((groups, columns, most), np.float32)
        self.added = np.empty((groups, columns, most), np.float32)
        self.bounds = bounds
        self.fitted = self.count = 0

    def update(self, x: Array, y: Array, added: Array | float, *, judges: bool) -> None:
        """Adds vectors; those that judge come last."""
        here = slice(self.count, self.count + x.shape[2])
        self.x[:, :, here], self.y[:, :, here], self.added[:, :, here] = x, y, added
        self.count = here.stop
        self.fitted += 0 if judges else x.shape[2]

    def part(self, start: int, stop: int) -> Vectors:
        """Some of them, all to fit to."""
        found = Vectors(0, 0, 0, 0, self.bounds)
        found.x, found.y, found.added = (a[:, :, start:stop] for a in (self.x, self.y, self.added))
        found.fitted = found.count = stop - start
        return found

    def error(self, weight: Array, bias: Array) -> float:
        """Mean square of what passes, against the original."""
        found = self.bounds.apply(self.outputs(weight, bias) + self.added)
        return float(((found - self.bounds.apply(self.y)) ** 2).mean(dtype=np.float64))

    def outputs(self, weight: Array, bias: Array) -> Array:
        """``W^T x + b``."""
        return np.matmul(weight.transpose(0, 2, 1).astype(np.float32), self.x) + bias[:, :, None].astype(np.float32)

    def wanted(self, weight: Array, bias: Array) -> Array:
        """What the layer should give: the original's outputs, except where what it gives makes no difference."""
        if self.bounds.is_open:
            return self.y - self.added
        now = self.outputs(weight, bias) + self.added
        wanted = np.where(self.y < self.bounds.low, np.minimum(now, self.bounds.low), self.y)
        return np.where(self.y > self.bounds.high, np.maximum(now, self.bounds.high), wanted) - self.added


def solve(vectors: Vectors, start: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """Better weights (groups, rows, columns) and bias (groups, columns), or those given where none are better.

    Args:
        vectors: What the layer reads and what it should give.
        start: Present weights of the rows that are left.
        bias: Present bias; ``None``: there is none, and none can be added.
    """
    centered = bias is not None
    zero = np.zeros((start.shape[0], start.shape[2])) if bias is None else bias.astype(np.float64)
    fit = vectors.part(0, vectors.fitted)
    judge = vectors.part(vectors.fitted, vectors.count) if vectors.count > vectors.fitted else fit
    least, best = judge.error(start, zero), None
    solver = _Dual(fit, centered, start) if _is_dual(fit) else _Primal(fit, centered, start)
    right, last = solver.right(fit.y - fit.added), np.inf
    for strength in LAMBDAS:
        found = solver.solve(right, strength)
        error = judge.error(*found)
        if np.isfinite(error) and error < least:
            least, best = error, strength
        if error > last:  # one valley
            break
        last = error
    if best is None:
        return start, bias
    everything = vectors.part(0, vectors.count)
    if isinstance(solver, _Primal):
        solver = solver if judge is fit else solver.joined(_Primal(judge, centered, start))
    else:
        del solver
        solver = _Dual(everything, centered, start)
    weight, offset = solver.solve(solver.right(everything.y - everything.added), best)
    for _ in range(0 if vectors.bounds.is_open else ROUNDS):
        weight, offset = solver.solve(solver.right(everything.wanted(weight, offset)), best)
    return weight, (offset if centered else None)


def _is_dual(vectors: Vectors) -> bool:
    groups, rows, _ = vectors.x.shape
    return groups == 1 and rows > max(WIDEST, vectors.count)


class _Primal:
    """Keeps ``H`` and its factor for one strength; each right-hand side is one more solve."""

    def __init__(self, vectors: Vectors, centered: bool, start: Array) -> None:
        self._start = start
        self._parts, self._centered = [vectors.x], centered
        self._sum = vectors.x.sum(axis=2, dtype=np.float64)
        self._products = np.matmul(vectors.x, vectors.x.transpose(0, 2, 1)).astype(np.float64)
        self._count = vectors.count
        self._given: tuple[Array, Array] | None = None
        self._factors: tuple[float, list[Array]] | None = None

    def joined(self, other: _Primal) -> _Primal:
        """This one, with the vectors of ``other`` behind its own."""
        self._parts += other._parts
        self._sum += other._sum
        self._products += other._products
        self._count += other._count
        self._given = self._factors = None
        return self

    @property
    def _mean(self) -> Array:
        return self._sum / max(self._count, 1) * self._centered

    def right(self, wanted: Array) -> tuple[Array, Array]:
        """``R``, and the mean of what is wanted: (groups, columns, n)."""
        middle = wanted.mean(axis=2, dtype=np.float64) * self._centered
        start, r = 0, np.zeros((wanted.shape[0], self._sum.shape[1], wanted.shape[1]))
        for x in self._parts:
            stop = start + x.shape[2]
            r += np.matmul(x, wanted[:, :, start:stop].transpose(0, 2, 1))
            start = stop
        return r / max(self._count, 1) - self._mean[:, :, None] * middle[:, None, :], middle

    def solve(self, right: tuple[Array, Array], strength: float) -> tuple[Array, Array]:
        """Weights and bias (zero where it stays out)."""
        (r, middle), start = right, self._start
        if self._given is None:
            h = self._products / max(self._count, 1) - self._mean[:, :, None] * self._mean[:, None, :]
            self._given = h, h @ start
        h, given = self._given
        change = r - given
        size = h.shape[1]
        damping = np.maximum(strength * np.trace(h, axis1=1, axis2=2) / max(size, 1), 1e-30)
        if len(h) > 1:
            weight = start + cast(Array, np.linalg.solve(h + np.eye(size) * damping[:, None, None], change))
        else:
            if self._factors is None or self._factors[0] != strength:
                self._factors = strength, _factored(h[0] + np.eye(size) * damping[0])
            weight = start + _solved(self._factors[1], change[0])[None]
        return weight, middle - np.einsum("gio,gi->go", weight, self._mean)


class _Dual:
    """``W = W0 + X^T (X X^T + lambda I)^-1 (Y - X W0)`` for one group."""

    def __init__(self, vectors: Vectors, centered: bool, start: Array) -> None:
        self._centered, self._start = centered, start
        self._mean = vectors.x[0].mean(axis=1, keepdims=True) * centered
        self._rows = vectors.x[0] - self._mean
        self._kernel = (self._rows.T @ self._rows).astype(np.float64)
        self._factors: tuple[float, list[Array]] | None = None

    def right(self, wanted: Array) -> tuple[Array, Array]:
        """What is wanted around its mean, and the mean."""
        middle = wanted[0].mean(axis=1, keepdims=True) * self._centered
        return wanted[0] - middle, middle

    def solve(self, right: tuple[Array, Array], strength: float) -> tuple[Array, Array]:
        """Weights and bias (zero where it stays out)."""
        start = self._start
        change = (right[0] - start[0].T.astype(np.float32) @ self._rows).T.astype(np.float64)
        if self._factors is None or self._factors[0] != strength:
            damping = max(strength * float(np.trace(self._kernel)) / len(self._rows), 1e-30)
            self._factors = strength, _factored(self._kernel + np.eye(len(self._kernel)) * damping)
        weight = start[0] + self._rows @ _solved(self._factors[1], change).astype(np.float32)
        return weight[None], (right[1] - weight.T @ self._mean).T


def _factored(matrix: Array) -> list[Array]:
    """The Cholesky factor of a matrix, which is overwritten; empty where it is not positive definite."""
    try:
        return [linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)]
    except linalg.LinAlgError:
        return []


def _solved(factor: list[Array], wanted: Array) -> Array:
    """``matrix^-1 wanted``; NaN without a factor."""
    if not factor:
        return np.multiply(wanted, np.nan)
    return linalg.cho_solve((factor[0], True), wanted, check_finite=False)
