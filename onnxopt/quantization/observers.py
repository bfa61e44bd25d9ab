"""Mergeable statistics of activations: updating in any order or merging any split of the data gives the same ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.errors import DataError

__all__ = ["MinMax"]


@dataclass(frozen=True)
class MinMax:
    """The smallest and the largest value seen."""

    low: float = float("inf")
    high: float = float("-inf")

    def update(self, array: np.ndarray[Any, Any], name: str) -> MinMax:
        """The statistics with the values of ``array`` added.

        Raises:
            DataError: A value is NaN or infinite.
        """
        if array.size == 0:
            return self
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                "an activation is NaN or infinite during calibration",
                where=f"value {name!r}",
                fix="check the calibration data (scale, normalisation), or exclude the node with --exclude",
            )
        return self.merge(MinMax(low, high))

    def merge(self, other: MinMax) -> MinMax:
        """The statistics of both parts of the data."""
        return MinMax(min(self.low, other.low), max(self.high, other.high))

    def range(self) -> tuple[float, float]:
        """Low and high of the values seen; (0, 0) when there were none."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
