"""GPTQ: rounds weights column by column; each error is made up for by the columns still to come.

Source: Frantar et al. 2023, https://arxiv.org/abs/2210.17323, algorithm 1, and the authors' code. With ``H = X^T X``
over the inputs ``X`` (samples, columns) of the layer and ``U`` the upper Cholesky factor of the inverse of the damped
``H``: ``e = (w_j - q_j) / U_jj``, then ``w_k -= e U_jk`` for all ``k > j``. Columns are taken in falling order of the
energy of their input (the authors' ``act_order``), so that the costly errors are made while there are columns left to
make up for them; the grid of a block is that of its float weights (``static_groups``). Measured on correlated inputs
this is worth 3 dB over the order of the columns. One difference: columns whose input is always zero are rounded as they
are instead of being set to zero, for other inputs may use them.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from onnxopt.core.tensors import Array
from onnxopt.quantization.weight_only.blocks import BlockGrid, Blocks, split
from onnxopt.quantization.weight_only.rounding import codes_of, extreme_grids

__all__ = ["gptq"]

DAMPING = 0.01
"""Added to the diagonal of ``H``, as a share of its mean."""
MOST_DAMPING = 10.0
PART = 128
"""Columns whose errors reach the later ones in one product."""


def gptq(weight: Array, gram: Array, grid: BlockGrid) -> Blocks | None:
    """``weight`` (rows, columns) rounded so that its products with inputs like those seen change least.

    Args:
        weight: A row is one output channel.
        gram: ``X^T X`` (columns, columns) over inputs of the layer.
        grid: How weights are rounded.

    Returns:
        ``None`` where the inputs say nothing: all zero, or not finite.
    """
    columns, width = weight.shape[1], grid.block_size
    order: Array = np.argsort(-np.diag(gram), kind="stable")
    factor = _factor(gram[np.ix_(order, order)])
    if factor is None:
        return None
    blocks = split(weight, width)
    scale, zero_point = extreme_grids(blocks, grid)
    codes = np.repeat(zero_point, width, axis=-1).astype(np.uint8)  # what fills up the last block stands for 0
    rest = weight[:, order].astype(np.float32)
    for start in range(0, columns, PART):
        stop = min(start + PART, columns)
        errors = np.zeros((len(rest), stop - start), np.float32)
        for place in range(start, stop):
            block, inside = divmod(int(order[place]), width)
            values, step, zero = rest[:, place], scale[:, block, 0], zero_point[:, block, 0]
            code = codes_of(values, step, zero, grid)
            codes[:, block, inside] = code
            error = (values - (code - zero) * step) / factor[place, place]
            rest[:, place + 1 : stop] -= np.outer(error, factor[place, place + 1 : stop])
            errors[:, place - start] = error
        rest[:, stop:] -= errors @ factor[start:stop, stop:]
    return Blocks(grid, columns, codes, scale[..., 0], zero_point[..., 0].astype(np.uint8))


def _factor(gram: Array) -> Array | None:
    """The upper Cholesky factor of the inverse of the damped matrix, float32; ``None`` where there is none."""
    mean = float(np.diag(gram).mean()) if len(gram) else 0.0
    if not np.isfinite(gram).all() or mean <= 0:
        return None
    damping = DAMPING
    while damping <= MOST_DAMPING:
        damped = gram.astype(np.float64)
        damped[np.diag_indices_from(damped)] += damping * mean
        try:
            lower = linalg.cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
            inverse = linalg.cho_solve((lower, True), np.eye(len(gram)), overwrite_b=True, check_finite=False)
            return linalg.cholesky(inverse, lower=False, check_finite=False).astype(np.float32)
        except linalg.LinAlgError:
            damping *= 10
    return None
