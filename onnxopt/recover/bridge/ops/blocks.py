"""Products with, and lookups in, weights that are stored in blocks of 4 or 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.grid import Grid, Packing, unpacked
from onnxopt.recover.bridge.site import MICROSOFT, Function, Site, operator

PLAIN = "quantize the float model again: the trainer knows the form that `onnxopt quantize --mode weights` writes"


def product_grid(site: Site) -> Grid:
    """The grid of the weight of a MatMulNBits.

    Raises:
        ModelError: Scales or zero points are not constants, or are stored in a way that is not known here.
    """
    bits, block = site.int("bits", 4), site.int("block_size", 32)
    packing = Packing(bits, block, site.int("N", 0), site.int("K", 0))
    scale, zeros = site.constant(2), site.constant(3)
    if bits not in (4, 8) or scale is None or site.has(4) or (site.has(3) and zeros is None):
        raise site.refuse(f"weights of {bits} bits in an order or with scales that are computed", PLAIN)
    zero = torch.full((), 2.0 ** (bits - 1))
    if zeros is not None and zeros.is_floating_point():
        zero = _each(zeros, packing)
    elif zeros is not None:
        rows = zeros.reshape(packing.rows, -1)
        rows = torch.stack([rows & 15, rows >> 4], -1).reshape(packing.rows, -1) if bits == 4 else rows
        zero = _each(rows[:, : packing.blocks], packing)
    return Grid(_each(scale, packing), zero.to(scale.device).float(), 0, 2**bits - 1, packing)


def _each(values: Tensor, packing: Packing) -> Tensor:
    """What belongs to each block, for each weight: (rows, columns)."""
    wide = values.float().reshape(packing.rows, packing.blocks).repeat_interleave(packing.block, 1)
    return wide[:, : packing.columns]


@operator("MatMulNBits", domain=MICROSOFT)
def matmul_blocks(site: Site) -> Function:
    """The product with the weight, in floats (the runtime may round activations to 8 bits, which is not imitated)."""
    stored = site.constant(1)
    if stored is None:
        raise site.refuse("a weight that is computed", PLAIN)
    weight = product_grid(site).decoded(stored)
    product = block_product(site)

    def run(x: Tensor, second: Tensor, *rest: Tensor | None) -> Tensor | Sequence[Tensor]:
        del second
        return product(x, weight, *rest)

    return run


def block_product(site: Site) -> Function:
    """The product with a weight (rows, columns) that takes the place of the codes."""
    del site

    def run(x: Tensor, weight: Tensor, *rest: Tensor | None) -> Tensor:
        bias = rest[3] if len(rest) > 3 else None
        return F.linear(x, weight.to(x.dtype), bias)

    return run


@operator("GatherBlockQuantized", domain=MICROSOFT)
def gather_blocks(site: Site) -> Function:
    """Rows of a table in blocks."""
    bits, block = site.int("bits", 4), site.int("block_size", 128)
    stored, scale, zeros = site.constant(0), site.constant(2), site.constant(3)
    is_plain = site.int("gather_axis", 0) == 0 and site.int("quantize_axis", 1) == 1
    if stored is None or scale is None or stored.ndim != 2 or not is_plain or (site.has(3) and zeros is None):
        raise site.refuse("a table in blocks of another form", PLAIN)
    columns = stored.shape[1] * 8 // bits
    packing = Packing(bits, block, stored.shape[0], columns)
    codes = unpacked(stored, packing).float()
    zero = torch.full((), 2.0 ** (bits - 1))
    if zeros is not None:
        rows = torch.stack([zeros & 15, zeros >> 4], -1).reshape(packing.rows, -1) if bits == 4 else zeros
        zero = _each(rows[:, : packing.blocks], packing)
    table = (codes - zero) * _each(scale, packing)

    def run(data: Tensor, index: Tensor, *rest: Tensor | None) -> Tensor:
        del data, rest
        return F.embedding(index.long(), table)

    return run
