"""Weights of a linear ensemble fitted on labelled data: non-negative least squares, shrunk to the mean."""

from __future__ import annotations

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.merging.points import Points, folds

__all__ = ["RHOS", "fit_weights", "shrunk_weights"]

RHOS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 30.0)
FEW = 128
"""Items below which rho is not chosen by cross-validation: the choice would cost more than it gives."""
RHO_OF_FEW = 0.2
LEAST_SHARE = 1e-3
"""A member whose weight is a smaller share of the sum is left out."""


def shrunk_weights(points: Points, rho: float, *, is_share: bool = True) -> Array:
    """``argmin ||P w - Y||^2 + rho tr(P^T P)/K ||w - 1/K||^2, w >= 0``, as shares of 1 where ``is_share``.

    Args:
        points: P are the outputs, Y the truth.
        rho: 0 is plain non-negative least squares, infinity the mean.
        is_share: Whether only the direction counts, as for probabilities.
    """
    from scipy.optimize import nnls

    count = points.outputs.shape[1]
    table = points.outputs.transpose(0, 2, 1).reshape(-1, count)
    target = points.truth.reshape(-1)
    gram: Array = table.T @ table
    product: Array = table.T @ target
    strength = rho * float(np.trace(gram)) / count
    gram = gram + (strength + 1e-12 * float(np.trace(gram)) / count + 1e-300) * np.eye(count)
    product = product + strength / count
    factor: Array = np.linalg.cholesky(gram)  # ||R^T w - R^-1 p|| has the same minimum
    weights: Array = nnls(factor.T, np.linalg.solve(factor, product))[0]
    weights[weights < LEAST_SHARE * weights.sum()] = 0.0
    total = float(weights.sum())
    if total <= 0:
        return np.full(count, 1 / count)
    return weights / total if is_share else weights


def fit_weights(points: Points, seed: int, *, is_share: bool = True) -> tuple[Array, float]:
    """The weights, and the rho that 5-fold cross-validation on the squared error chose (fixed for few items)."""
    if len(np.unique(points.groups)) < FEW:
        return shrunk_weights(points, RHO_OF_FEW, is_share=is_share), RHO_OF_FEW
    errors = np.zeros(len(RHOS))
    for held in folds(points.groups, seed):
        rest, part = points.take(~held), points.take(held)
        for i, rho in enumerate(RHOS):
            weights = shrunk_weights(rest, rho, is_share=is_share)
            errors[i] += float(((np.einsum("nkc,k->nc", part.outputs, weights) - part.truth) ** 2).sum())
    rho = RHOS[int(errors.argmin())]
    return shrunk_weights(points, rho, is_share=is_share), rho
