"""Sums of two products in 16 bits: what x86 CPUs without VNNI make of U8 activations with S8 weights.

There the kernels of ONNX Runtime (MLAS, ``MlasGemmU8S8KernelAvx2``, ``...Avx512Core``, ``MlasConvSymKernelAvx2``) use
``vpmaddubsw``: products of two neighbours along the contracted axis are added with saturation to int16, and only then
to the 32-bit sum. Neighbours are rows (0, 1), (2, 3), ... of the weight as a matrix ``(K, N)``; of a Conv its rows run
over kernel positions first, then over input channels, group by group. Activations are the stored codes: their zero
point is taken out afterwards. Neither depthwise Convs, nor U8 with U8, nor ConvInteger saturate.
Everything here was compared bit for bit with ONNX Runtime on an emulated Haswell (``benchmarks/saturation_oracle.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.core.tensors import Array

__all__ = ["HIGHEST", "LOWEST", "SAFE", "Pairs", "as_matrix", "excess", "risky", "worst_sum"]

LOWEST, HIGHEST = -(2**15), 2**15 - 1
CODE = 255
"""The highest code of an activation."""
SAFE = HIGHEST // CODE
"""Two weights of one sign whose magnitudes add up to no more (128) never saturate."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of weights whose sum saturates for some activations, in the order of their output channels.

    Attributes:
        first: Row of the first weight of each pair, (R,); the second one is in the row behind it.
        channel: Output channel of each pair, (R,).
        weights: The two weights, (2, R) int32.
        total: Number of pairs of the whole matrix.
    """

    first: Array
    channel: Array
    weights: Array
    total: int


def as_matrix(weight: Array, axis: int) -> Array:
    """The weight of a Conv (out, in / groups, *k), or of a MatMul or Gemm with output ``axis``, as (K, N).

    Rows of a Conv: kernel positions, then input channels, as the kernels pack them.
    """
    if weight.ndim > 2:
        return weight.reshape(*weight.shape[:2], -1).transpose(2, 1, 0).reshape(-1, weight.shape[0])
    return weight if axis == 1 else weight.T


def risky(codes: Array) -> Pairs:
    """The pairs of ``codes``, (K, N) int8, that saturate for some activations: one sign, magnitudes above 128."""
    first, second = _halves(codes.astype(np.int32))
    up = np.maximum(first, 0) + np.maximum(second, 0)
    down = np.minimum(first, 0) + np.minimum(second, 0)
    channel, pair = np.nonzero(((up * CODE > HIGHEST) | (down * CODE < LOWEST)).T)
    return Pairs(2 * pair, channel, np.stack([first[pair, channel], second[pair, channel]]), first.size)


def worst_sum(matrix: Array) -> Array:
    """The largest sum of magnitudes of a pair of one sign in each output channel, (N,); ``matrix``: (K, N)."""
    first, second = _halves(matrix)
    up = np.maximum(first, 0) + np.maximum(second, 0)
    down = np.maximum(-first, 0) + np.maximum(-second, 0)
    return np.maximum(up, down).max(axis=0, initial=0)


def excess(data: Array, codes: Array) -> Array:
    """What saturation adds to ``data @ codes``: the definition, for tests and single layers.

    Args:
        data: Codes of activations, (M, K) uint8.
        codes: Weights, (K, N) int8.

    Returns:
        (M, N) int32.
    """
    found = np.zeros((len(data), codes.shape[1]), np.int32)
    wide, weights = data.astype(np.int32), codes.astype(np.int32)
    for row in range(0, len(codes) - 1, 2):
        total = wide[:, row, None] * weights[row] + wide[:, row + 1, None] * weights[row + 1]
        found += np.clip(total, LOWEST, HIGHEST) - total
    return found


def _halves(matrix: Array) -> tuple[Array, Array]:
    """Rows 0, 2, ... and rows 1, 3, ...; a missing last row is zero."""
    if len(matrix) % 2:
        matrix = np.concatenate([matrix, np.zeros_like(matrix[:1])])
    return matrix[0::2], matrix[1::2]
