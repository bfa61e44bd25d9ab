"""Affine quantization: q = clamp(round(x / scale) + zero_point), round half to even, as in ONNX QuantizeLinear."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from onnxopt.quantization.scheme import Granularity, Grid, PerAxis

__all__ = ["WeightRange", "dequantize_array", "qparams", "quantize_array", "weight_scale"]

Array = np.ndarray[Any, Any]
WeightRange: TypeAlias = Literal["minmax", "mse"]

SMALLEST = float(np.finfo(np.float32).tiny)
"""Scales below the smallest normal float32 divide by zero on kernels that flush denormals."""
CLIPPED = tuple(i / 100 for i in range(99, 49, -1))
"""The shares of the largest magnitude that are tried as the end of the grid."""
BLOCK = 1 << 16
"""Weights that are tried at a time: what one step needs stays in the cache."""

LEAST_GAIN = 0.02
"""Clipping must promise to take this share of the rounding noise away to be looked for."""


def qparams(low: float, high: float, grid: Grid) -> tuple[np.float32, int]:
    """Scale and zero point of ``grid`` for values in [low, high]; zero is always on the grid.

    The scale is rounded towards zero where it must be rounded, so that the grid never reaches beyond ``high``: ONNX
    Runtime drops a Clip before QuantizeLinear only when the grid lies within the Clip's limits.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.symmetric:
        bound = max(-low, high)
        middle = 0 if grid.low < 0 else (grid.low + grid.high + 1) // 2
        return np.float32(max(bound / (grid.high - middle), SMALLEST)), middle
    scale = np.float32(max((high - low) / (grid.high - grid.low), SMALLEST))
    if float(scale) * (grid.high - grid.low) > high - low and scale > SMALLEST:
        scale = np.nextafter(scale, np.float32(0))
    zero_point = int(np.clip(np.rint(grid.low - low / float(scale)), grid.low, grid.high))
    return scale, zero_point


def weight_scale(weight: Array, granularity: Granularity, grid: Grid, weight_range: WeightRange = "minmax") -> Array:
    """Symmetric scales of ``weight``.

    Args:
        weight: Any shape, float.
        granularity: How many scales.
        grid: Where the codes lie.
        weight_range: ``"minmax"``: the grid ends at the largest magnitude; ``"mse"``: at the share of it (one of
            ``CLIPPED``) with the least squared error, each scale by itself. Clipping costs at least ``(1 - share)^2``
            of the largest square, and gains less than ``(1 - share^2)`` of the rounding noise ``n / (12 high^2)`` of
            its ``n`` weights: at most that much of the noise, so that few weights on a fine grid are left alone.

    Returns:
        float32 scalar, or (channels,) for ``PerAxis``; 0 where all weights are 0.
    """
    axis = granularity.axis if isinstance(granularity, PerAxis) else None
    axes = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    bound = np.abs(weight).max(axis=axes, initial=0.0)
    widest = np.asarray(bound / grid.high, dtype=np.float32)
    if weight_range == "minmax" or not weight.size or weight.size < LEAST_GAIN * 12 * grid.high**2 * widest.size:
        return widest
    rows = np.moveaxis(weight, axis or 0, 0).reshape(widest.size, -1)
    count = max(1, BLOCK // rows.shape[1])
    starts = range(0, len(rows), count)
    steps = [_least_error(rows[i : i + count], widest.reshape(-1)[i : i + count], grid) for i in starts]
    return np.concatenate(steps).reshape(widest.shape)


def _least_error(rows: Array, widest: Array, grid: Grid) -> Array:
    """The best share of ``widest``, (channels,), for ``rows``, (channels, weights of each)."""
    best, least = widest, np.full(widest.shape, np.inf)
    for share in (1.0, *CLIPPED):
        scale = widest * np.float32(share)
        step = np.where(scale > 0, scale, np.float32(1))[:, None]
        error = rows / step
        codes = np.rint(error)
        np.maximum(codes, grid.low, out=codes)
        np.minimum(codes, grid.high, out=codes)
        error -= codes
        error *= step
        squared = np.square(error, out=error).sum(axis=1, dtype=np.float64)
        best, least = np.where(squared < least, scale, best), np.minimum(squared, least)
    return best


def quantize_array(array: Array, scale: Array, zero_point: int, granularity: Granularity, grid: Grid) -> Array:
    """The codes of ``array`` on ``grid``; scale shape as ``weight_scale`` gives it."""
    scaled = np.asarray(array, np.float32) / _broadcast(scale, array.ndim, granularity)
    return np.clip(np.rint(scaled) + zero_point, grid.low, grid.high).astype(grid.dtype)


def dequantize_array(codes: Array, scale: Array, zero_point: int, granularity: Granularity) -> Array:
    """The float32 values that ``codes`` stand for."""
    return (codes.astype(np.float32) - zero_point) * _broadcast(scale, codes.ndim, granularity)


def _broadcast(scale: Array, ndim: int, granularity: Granularity) -> Array:
    if isinstance(granularity, PerAxis):
        return np.asarray(scale).reshape([-1 if a == granularity.axis else 1 for a in range(ndim)])
    return np.asarray(scale)
