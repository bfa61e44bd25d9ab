"""Random inputs of the graphs for the rules of pruning."""

from __future__ import annotations

import numpy as np


def image(batch: int = 1, channels: int = 3, size: int = 8) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(7).standard_normal((batch, channels, size, size)).astype(np.float32)}


def sequence(batch: int = 1, length: int = 6, width: int = 8) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(7).standard_normal((batch, length, width)).astype(np.float32)}
