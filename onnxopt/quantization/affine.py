"""Affine quantization: q = clamp(round(x / scale) + zero_point), round half to even, as in ONNX QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxopt.quantization.scheme import Granularity, Grid, PerAxis

__all__ = ["dequantize_array", "qparams", "quantize_array", "weight_scale"]

Array = np.ndarray[Any, Any]

SMALLEST = float(np.finfo(np.float32).tiny)
"""Scales below the smallest normal float32 divide by zero on kernels that flush denormals."""


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


def weight_scale(weight: Array, granularity: Granularity, grid: Grid) -> Array:
    """Symmetric min-max scales of ``weight``.

    Returns:
        float32 scalar, or (channels,) for ``PerAxis``; 0 where all weights are 0.
    """
    axes = tuple(a for a in range(weight.ndim) if a != granularity.axis) if isinstance(granularity, PerAxis) else None
    bound = np.abs(weight).max(axis=axes, initial=0.0)
    return np.asarray(bound / grid.high, dtype=np.float32)


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
