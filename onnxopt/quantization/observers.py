"""Mergeable statistics of activations: updating in any order or merging any split of the data gives the same ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["MinMax"]


@dataclass(frozen=True)
class MinMax:
    """The smallest and the largest value seen, and whether all of them were finite."""

    low: float = float("inf")
    high: float = float("-inf")
    finite: bool = True

    def update(self, array: np.ndarray[Any, Any]) -> MinMax:
        """The statistics with the values of ``array`` added."""
        if array.size == 0:
            return self
        low, high = float(array.min()), float(array.max())
        return self.merge(MinMax(low, high, bool(np.isfinite(low) and np.isfinite(high))))

    def merge(self, other: MinMax) -> MinMax:
        """The statistics of both parts of the data."""
        return MinMax(min(self.low, other.low), max(self.high, other.high), self.finite and other.finite)

    def range(self) -> tuple[float, float]:
        """Low and high of the values seen; (0, 0) when there were none."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
