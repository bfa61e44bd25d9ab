"""What an integer grid looks like and which grids a target wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

__all__ = ["CPU_X86", "Granularity", "Grid", "PerAxis", "PerTensor", "QuantScheme"]


@dataclass(frozen=True)
class PerTensor:
    """One scale and zero point for the whole tensor."""


@dataclass(frozen=True)
class PerAxis:
    """One scale and zero point for each index along ``axis``."""

    axis: int


Granularity: TypeAlias = PerTensor | PerAxis


@dataclass(frozen=True)
class Grid:
    """An 8-bit integer grid.

    Attributes:
        dtype: ``int8`` or ``uint8``.
        symmetric: The zero point is 0 for ``int8``, 128 for ``uint8``; the lowest ``int8`` code -128 is not used.
    """

    dtype: np.dtype[np.integer]
    symmetric: bool

    def __post_init__(self) -> None:
        if self.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
            raise ValueError(f"a grid of {self.dtype} is not supported; int8 or uint8 is")

    @property
    def low(self) -> int:
        """The lowest code in use."""
        bottom = int(np.iinfo(self.dtype).min)
        return bottom + 1 if self.symmetric and bottom < 0 else bottom

    @property
    def high(self) -> int:
        """The highest code."""
        return int(np.iinfo(self.dtype).max)


@dataclass(frozen=True)
class QuantScheme:
    """The grids of activations and of weights.

    Attributes:
        activations: The grid of activations.
        weights: The grid of weights.
        float_bias: Biases stay float instead of int32.
        residual: A Conv adds the other side of a residual Add to its sums before they are rounded, so that its own
            output gets no grid.
    """

    activations: Grid
    weights: Grid
    float_bias: bool = False
    residual: bool = False


CPU_X86 = QuantScheme(
    activations=Grid(np.dtype(np.uint8), symmetric=False), weights=Grid(np.dtype(np.int8), symmetric=True)
)
"""What ONNX Runtime's x86 kernels fuse: U8 activations with S8 weights. S8 activations run in float there, U8 weights
lose most of the gain."""
