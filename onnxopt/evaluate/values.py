"""Rows of the metrics over numbers: absolute and squared error, cosine."""

from __future__ import annotations

import numpy as np

from onnxopt.errors import DataError
from onnxopt.evaluate.outputs import is_number
from onnxopt.evaluate.rows import Array, Rows

__all__ = ["cosine_rows", "error_rows", "ratio_score", "root_ratio_score"]


def error_rows(outputs: Array, labels: Array, power: int) -> Rows:
    """``[sum |e|^power, count]`` an item; an error that is no number counts as infinite.

    Raises:
        DataError: The labels do not fit the outputs.
    """
    found, truth = _aligned(outputs, labels)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found - truth) ** power
    error[np.isnan(error)] = np.inf
    return np.stack([error.sum(axis=1), np.full(len(error), float(error.shape[1]))], axis=1)


def cosine_rows(outputs: Array, labels: Array) -> Rows:
    """``[cosine, 1]`` an item; 1 for two zero vectors, 0 where one is zero or not finite.

    Raises:
        DataError: The labels do not fit the outputs.
    """
    found, truth = _aligned(outputs, labels)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = [np.abs(a).max(axis=1, initial=0.0, keepdims=True) for a in (found, truth)]
        a, b = (
            np.divide(x, m, out=np.zeros_like(x), where=m > 0) for x, m in zip((found, truth), lengths, strict=True)
        )
        norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        cosine = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    cosine[(lengths[0] == lengths[1])[:, 0] & (found == truth).all(axis=1)] = 1.0
    cosine[~np.isfinite(cosine)] = 0.0
    return np.stack([np.clip(cosine, -1, 1), np.ones(len(cosine))], axis=1)


def ratio_score(sums: Rows) -> Rows:
    """First column over the second, ``(..., 2)`` to ``(...)``; NaN where nothing was counted."""
    empty = np.full(sums.shape[:-1], np.nan)
    return np.divide(sums[..., 0], sums[..., 1], out=empty, where=sums[..., 1] > 0)


def root_ratio_score(sums: Rows) -> Rows:
    """Square root of the first column over the second."""
    return np.sqrt(ratio_score(sums))


def _aligned(outputs: Array, labels: Array) -> tuple[Rows, Rows]:
    if not (is_number(outputs) and is_number(labels)):
        raise _unfit(f"labels of type {labels.dtype.name} for outputs of type {outputs.dtype.name}")
    fits = labels.size == outputs.size and (labels.ndim <= 1 or len(labels) == len(outputs))
    if not fits:
        raise _unfit(f"labels {list(labels.shape)} for outputs {list(outputs.shape)}")
    shape = (len(outputs), outputs.size // max(1, len(outputs)))
    return outputs.astype(np.float64).reshape(shape), labels.astype(np.float64).reshape(shape)


def _unfit(found: str) -> DataError:
    return DataError(
        f"the labels do not fit the output: {found}",
        where="labels of the data",
        fix="give numbers in the shape of the output, or choose another --metric or --output-name",
    )
