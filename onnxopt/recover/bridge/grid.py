"""Weights that the graph stores as integer codes: trained as floats that are rounded onto their grid in every step.

Source of the layout of ``com.microsoft::MatMulNBits``: its operator schema; ``w = (code - zero) scale``, codes of
4 bits two to a byte, the first in the low half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxopt.core.tensors import Array
from onnxopt.recover.bridge.ops.quantize import rounded

__all__ = ["Grid", "Packing", "unpacked"]


@dataclass(frozen=True)
class Packing:
    """How MatMulNBits stores its codes.

    Attributes:
        bits: Of a code.
        block: Weights that share a scale.
        rows: Outputs.
        columns: Inputs.
    """

    bits: int
    block: int
    rows: int
    columns: int

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.columns // self.block)


@dataclass(frozen=True)
class Grid:
    """The values that a weight may take.

    Attributes:
        scale: Step, in a shape that broadcasts to the weight.
        zero: Code of zero, likewise; ``None``: 0.
        low: Smallest code.
        high: Largest code.
        packing: How the codes are stored; ``None``: one an element.
    """

    scale: Tensor
    zero: Tensor | None
    low: int
    high: int
    packing: Packing | None = None

    def steps(self, weight: Tensor) -> Tensor:
        """The codes of a weight as floats; rounding lets gradients through, the ends of the grid do not."""
        codes = rounded(weight / self.scale)
        codes = codes if self.zero is None else codes + self.zero
        return torch.clamp(codes, self.low, self.high)

    def snapped(self, weight: Tensor) -> Tensor:
        """The values that the codes of a weight stand for."""
        codes = self.steps(weight)
        return (codes if self.zero is None else codes - self.zero) * self.scale

    def decoded(self, stored: Tensor) -> Tensor:
        """The weight that stored codes stand for, a value in the middle of what rounds to them."""
        codes = stored if self.packing is None else unpacked(stored, self.packing)
        codes = codes.to(self.scale.dtype)
        return (codes if self.zero is None else codes - self.zero) * self.scale

    def encoded(self, weight: Tensor, kind: ir.DataType) -> Array:
        """The codes of a weight as they are stored."""
        with torch.no_grad():
            codes = self.steps(weight).cpu().to(torch.int64)
        array: Array = codes.numpy()
        return array.astype(kind.numpy()) if self.packing is None else _packed(array, self.packing)

    def to(self, device: torch.device) -> Grid:
        """The same grid on another device."""
        zero = None if self.zero is None else self.zero.to(device)
        return Grid(self.scale.to(device), zero, self.low, self.high, self.packing)


def unpacked(stored: Tensor, packing: Packing) -> Tensor:
    """The codes (rows, columns) of bytes (rows, blocks, block * bits / 8)."""
    flat = stored.reshape(packing.rows, -1)
    if packing.bits == 4:
        flat = torch.stack([flat & 15, flat >> 4], -1).reshape(packing.rows, -1)
    return flat[:, : packing.columns]


def _packed(codes: Array, packing: Packing) -> Array:
    wide = np.zeros((packing.rows, packing.blocks * packing.block), np.uint8)
    wide[:, : packing.columns] = codes
    if packing.bits == 4:
        wide = wide[:, ::2] | (wide[:, 1::2] << 4)
    return np.ascontiguousarray(wide).reshape(packing.rows, packing.blocks, packing.block * packing.bits // 8)
