"""Which weights of one linear layer become zero, and what the others become for it.

Source: SparseGPT, Frantar and Alistarh 2023, https://arxiv.org/abs/2301.00774 (Algorithm 1). With ``H`` the damped
second moments of the rows that are read and ``H^-1 = U^T U`` (``U`` upper triangular), the weight ``w`` in row ``j``
costs ``w^2 / U_jj^2``; the rows are visited in order, and what a zero breaks is spread over the rows behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from onnxopt.core.tensors import Array
from onnxopt.errors import UsageError

__all__ = ["Pattern", "costs", "eliminate", "holds", "read_pattern", "refit"]

DAMPING = 1e-2
"""Of the mean of the diagonal, added to it."""
BLOCK = 128
"""Rows whose zeros are chosen together."""
STEPS = 24
"""Of conjugate gradients, at most."""
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Pattern:
    """``zeros`` of ``size`` weights that lie side by side along the input channels are zero, at least.

    Attributes:
        zeros: Weights that go.
        size: Weights that are looked at together.
    """

    zeros: int
    size: int

    def __str__(self) -> str:
        return f"{self.size - self.zeros}:{self.size}"


def read_pattern(text: str) -> Pattern:
    """The pattern that ``N:M`` stands for: at most N of M weights stay.

    Raises:
        UsageError: It is none, or cuts nothing or everything.
    """
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
    stay, size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < stay < size:
        raise UsageError(
            f"{text!r} is no pattern", where="--nm", fix="give N:M, N of M weights stay, 0 < N < M; such as 2:4"
        )
    return Pattern(size - stay, size)


def holds(matrix: Array, pattern: Pattern) -> bool:
    """Whether a matrix (groups, rows, columns), rows in the order of the pattern, has its zeros."""
    groups, rows, columns = matrix.shape
    if rows % pattern.size:
        return False
    zeros = (matrix == 0).reshape(groups, -1, pattern.size, columns).sum(axis=2)
    return bool((zeros >= pattern.zeros).all())


def costs(weight: Array, moments: Array) -> Array:
    """What each weight would cost to remove alone: (rows, columns).

    Args:
        weight: (rows, columns).
        moments: Of the rows, (rows, rows).
    """
    factor = _factor(moments)
    diagonal = (factor**2).sum(axis=0)  # of H^-1 = U^T U
    return np.divide(weight.astype(np.float64) ** 2, diagonal[:, None])


def eliminate(weight: Array, moments: Array, wanted: float | Pattern) -> tuple[Array, Array]:
    """The weights with zeros, and the mask of those that stay: (rows, columns) float64, bool.

    Args:
        weight: (rows, columns).
        moments: Of the rows, (rows, rows).
        wanted: Share of the weights that go, or a pattern along the rows, whose size divides their number.
    """
    factor = _factor(moments)
    left = weight.astype(np.float64)
    keep = np.ones(left.shape, bool)
    step = wanted.size if isinstance(wanted, Pattern) else 1
    width = max(BLOCK // step, 1) * step
    for start in range(0, len(left), width):
        stop = min(start + width, len(left))
        own = factor[start:stop, start:stop]
        block = left[start:stop]
        if not isinstance(wanted, Pattern):
            keep[start:stop] = _cheapest(block**2 / np.diag(own)[:, None] ** 2, wanted)
        spread = np.zeros_like(block)
        for row in range(stop - start):
            if isinstance(wanted, Pattern) and row % step == 0:
                part = slice(row, row + step)
                score = block[part] ** 2 / np.diag(own)[part, None] ** 2
                order = np.argsort(score, axis=0, kind="stable")[: wanted.zeros]
                np.put_along_axis(keep[start + row : start + row + step], order, False, axis=0)
            spread[row] = np.where(keep[start + row], 0.0, block[row]) / own[row, row]
            block[row:] -= np.outer(own[row, row:], spread[row])
        left[stop:] -= factor[start:stop, stop:].T @ spread
    left[~keep] = 0
    return left, keep


def refit(moments: Array, cross: Array, start: Array, keep: Array, strength: float) -> Array:
    """``start`` moved to the least squares solution among the weights that stay, ridge around ``start``.

    All columns at once by conjugate gradients on ``(H + lambda mean(diag H) I) D = R - H W0``, restricted to the mask.

    Args:
        moments: ``H``, (rows, rows).
        cross: ``R``, rows times wanted outputs, (rows, columns).
        start: ``W0``, zero outside the mask.
        keep: Mask of the weights that stay.
        strength: lambda.
    """
    size = max(len(moments), 1)
    damping = max(strength * float(np.trace(moments)) / size, 1e-30)
    scale = (1.0 / (np.diag(moments) + damping))[:, None]  # Jacobi
    change = np.zeros_like(start)
    rest = np.where(keep, cross - moments @ start, 0.0)
    first = float((rest * rest * scale).sum())
    towards = rest * scale
    power = (rest * towards).sum(axis=0)
    for _ in range(STEPS):
        if float(power.sum()) <= TOLERANCE * first or first == 0:
            break
        image = np.where(keep, moments @ towards + damping * towards, 0.0)
        length = power / np.maximum((towards * image).sum(axis=0), 1e-300)
        change += towards * length
        rest = rest - image * length
        scaled = rest * scale
        fresh = (rest * scaled).sum(axis=0)
        towards = scaled + towards * (fresh / np.maximum(power, 1e-300))
        power = fresh
    return start + change


def _factor(moments: Array) -> Array:
    """Upper triangular ``U`` with ``U^T U`` the inverse of the damped moments."""
    size = len(moments)
    damping = max(DAMPING * float(np.trace(moments)) / max(size, 1), 1e-30)
    damped = moments.astype(np.float64) + np.eye(size) * damping
    lower = linalg.cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
    inverse = linalg.cho_solve((lower, True), np.eye(size), check_finite=False)
    upper: Array = linalg.cholesky(inverse, lower=False, overwrite_a=True, check_finite=False)
    return upper


def _cheapest(score: Array, share: float) -> Array:
    """Mask of what stays when the cheapest ``share`` goes."""
    keep = np.ones(score.shape, bool)
    order = np.argsort(score, axis=None, kind="stable")
    keep[np.unravel_index(order[: round(share * score.size)], score.shape)] = False
    return keep
