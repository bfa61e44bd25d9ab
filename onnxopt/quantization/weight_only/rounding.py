"""Rounding of weights in blocks without data: to nearest (RTN), and half-quadratic quantization (HQQ)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.quantization.weight_only.blocks import BlockGrid, Blocks, split

__all__ = ["codes_of", "extreme_grids", "hqq", "rtn"]

TINY = float(np.finfo(np.float32).tiny)
CHUNK = 1 << 20
"""Weights that are worked on at once: HQQ needs some ten arrays of that size."""
ITERATIONS = 20
NORM = 0.7
"""The p of the error norm."""
BETA, GROWTH = 10.0, 1.01
SMALL = np.float32(1e-6)
"""Errors below this share of a step count as this one, which no power turns into infinity."""


def rtn(weight: Array, grid: BlockGrid) -> Blocks:
    """``weight`` (rows, columns) rounded to nearest, each block on the grid that its extremes span."""
    return _by_rows(weight, grid, extreme_grids)


def hqq(weight: Array, grid: BlockGrid) -> Blocks:
    """``weight`` (rows, columns) rounded on grids that let outliers go for the sake of the many.

    Source: Badri and Shaji 2023, https://mobiusml.github.io/hqq_blog/: with ``Q`` the codes,
    ``min over z, W_e of |W_e|_p^p + beta/2 |W_e - (W - s (Q - z))|^2``, alternately
    ``W_e = shrink(W - s (Q - z), beta)`` with ``shrink(x) = sign(x) relu(|x| - |x|^(p-1) / beta)``, then
    ``z = mean(Q - (W - W_e) / s)``. Differences: ONNX Runtime's fast kernels take whole zero points only, so ``z`` is
    rounded, and what rounding takes away the scale gives back, ``s = <Q - z, W - W_e> / <Q - z, Q - z>``; errors are in
    units of the first ``s``, so that ``beta`` means the same for all blocks; each block keeps the best grid on the way.
    """
    return _by_rows(weight, grid, _half_quadratic)


def codes_of(values: Array, scale: Array, zero_point: Array, grid: BlockGrid) -> Array:
    """The float codes of ``values`` (..., n) with scale and zero point (..., 1)."""
    return np.clip(np.rint(values / scale) + zero_point, 0, grid.high)


def extreme_grids(blocks: Array, grid: BlockGrid) -> tuple[Array, Array]:
    """Scale and zero point (..., 1) float32 of blocks (..., n), from their smallest and largest value.

    A symmetric grid has one code more below its middle than above; the sign of the scale puts it where the value of
    largest magnitude is.
    """
    low: Array = blocks.min(axis=-1, keepdims=True)
    high: Array = blocks.max(axis=-1, keepdims=True)
    if grid.symmetric:
        bound = np.where(np.abs(low) >= high, low, high)
        return _not_zero(bound / -grid.middle), np.full_like(bound, grid.middle)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = _not_zero((high - low) / grid.high)
    return scale, np.clip(np.rint(-low / scale), 0, grid.high)


def _half_quadratic(blocks: Array, grid: BlockGrid) -> tuple[Array, Array]:
    scale, zero_point = extreme_grids(blocks, grid)
    unit = np.abs(scale)
    best, least = (scale, zero_point), np.full_like(scale, np.inf)
    beta = BETA
    for _ in range(ITERATIONS):
        codes = codes_of(blocks, scale, zero_point, grid)
        error = (blocks - scale * (codes - zero_point)) / unit
        size = np.maximum(np.abs(error), SMALL)
        slope = np.exp(np.log(size) * (NORM - 1))
        norm = (size * slope).sum(axis=-1, keepdims=True)
        better = norm < least
        if not better.any():
            break
        least = np.where(better, norm, least)
        best = np.where(better, scale, best[0]), np.where(better, zero_point, best[1])
        target = blocks - np.sign(error) * np.maximum(size - slope / np.float32(beta), 0) * unit
        if not grid.symmetric:
            centre = (codes - target / scale).mean(axis=-1, keepdims=True)
            zero_point = np.clip(np.rint(centre), 0, grid.high)
        steps = codes - zero_point
        energy = (steps * steps).sum(axis=-1, keepdims=True)
        fitted = (steps * target).sum(axis=-1, keepdims=True) / np.maximum(energy, 1)
        scale = np.where((energy > 0) & (np.abs(fitted) > TINY), fitted, scale)
        beta *= GROWTH
    return best


def _by_rows(weight: Array, grid: BlockGrid, fit: Callable[[Array, BlockGrid], tuple[Array, Array]]) -> Blocks:
    rows, columns = weight.shape
    step = max(1, CHUNK // max(columns, 1))
    parts: list[tuple[Array, Array, Array]] = []
    for start in range(0, max(rows, 1), step):
        blocks = split(weight[start : start + step], grid.block_size)
        scale, zero_point = (a.astype(np.float32) for a in fit(blocks, grid))
        codes = codes_of(blocks, scale, zero_point, grid).astype(np.uint8)
        parts.append((codes, scale[..., 0], zero_point[..., 0].astype(np.uint8)))
    codes, scale, zero_point = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Blocks(grid, columns, codes, scale, zero_point)


def _not_zero(scale: Array) -> Array:
    """Scales of blocks that are all zero become 1, so that nothing is divided by zero."""
    return np.where(np.abs(scale) > TINY, scale, np.float32(1)).astype(np.float32)
