"""Weights rounded in blocks along the input axis, and the bytes that ONNX Runtime's operators take them in.

Source: the operator schemas of ``com.microsoft::MatMulNBits`` and ``com.microsoft::GatherBlockQuantized``:
``w = (code - zero_point) * scale``; codes of 4 bits are packed two to a byte, the first in the low half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onnxopt.core.tensors import Array

__all__ = ["BLOCK_SIZES", "Bits", "BlockGrid", "Blocks", "pack", "split", "stored_bytes"]

Bits: TypeAlias = Literal[4, 8]
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class BlockGrid:
    """How weights are rounded.

    Attributes:
        bits: Of a code.
        block_size: Weights that share a scale and a zero point.
        symmetric: The zero point is the middle of the grid and is not stored.
    """

    bits: Bits = 4
    block_size: int = 32
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"{self.bits} bits are not supported; 4 and 8 are")
        if self.block_size not in BLOCK_SIZES:
            raise ValueError(f"blocks of {self.block_size} are not supported; {BLOCK_SIZES} are")

    @property
    def high(self) -> int:
        """The highest code; the lowest is 0."""
        return 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 2 ** (self.bits - 1)


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight in rounded form.

    Attributes:
        grid: How it was rounded.
        columns: Weights of a row, without those that fill up the last block.
        codes: (rows, blocks, block_size) uint8; a row is one output channel of a MatMul, one entry of a table.
        scale: (rows, blocks) float32; may be negative.
        zero_point: (rows, blocks) uint8.
    """

    grid: BlockGrid
    columns: int
    codes: Array
    scale: Array
    zero_point: Array

    def dequantized(self) -> Array:
        """The float32 weights (rows, columns) that the codes stand for."""
        steps = self.codes.astype(np.float32) - self.zero_point[..., None].astype(np.float32)
        return (steps * self.scale[..., None]).reshape(len(self.codes), -1)[:, : self.columns]

    def packed(self) -> Array:
        """The codes as MatMulNBits takes them: (rows, blocks, block_size * bits / 8) uint8."""
        return pack(self.codes, self.grid.bits)

    def packed_rows(self) -> Array:
        """The codes as GatherBlockQuantized takes them: (rows, columns * bits / 8) uint8."""
        return pack(self.codes.reshape(len(self.codes), -1)[:, : self.columns], self.grid.bits)

    def packed_zero_points(self) -> Array | None:
        """(rows, ceil(blocks * bits / 8)) uint8; ``None`` where the grid is symmetric."""
        return None if self.grid.symmetric else pack(self.zero_point, self.grid.bits)


def split(weight: Array, block_size: int) -> Array:
    """``weight`` (rows, columns) in blocks: (rows, blocks, block_size) float32, the last one filled up with zeros."""
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((rows, blocks * block_size), np.float32)
    padded[:, :columns] = weight
    return padded.reshape(rows, blocks, block_size)


def pack(codes: Array, bits: Bits) -> Array:
    """Codes (..., n) uint8 with two to a byte along the last axis where they have 4 bits: (..., ceil(n / 2))."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], axis=-1)
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def stored_bytes(rows: int, columns: int, grid: BlockGrid) -> int:
    """Bytes of a weight (rows, columns) in this form: codes, scales, zero points."""
    blocks = -(-columns // grid.block_size)
    zero_points = 0 if grid.symmetric else -(-blocks * grid.bits // 8)
    return rows * (blocks * (grid.block_size * grid.bits // 8 + 4) + zero_points)
