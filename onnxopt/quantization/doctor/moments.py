"""Running mean and variance of each channel, and the two measures that the evidence about normalisation rests on."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

__all__ = ["TINY", "Moments", "divergence", "information"]

Array: TypeAlias = np.ndarray[Any, Any]

TINY = 1e-12


class Moments:
    """Sums over all axes but the second. Mutable: samples stream in."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Array = np.zeros(1)
        self._square: Array = np.zeros(1)

    def update(self, array: Array) -> None:
        """Adds one sample, ``(batch, channels, ...)``."""
        values = array.astype(np.float64)
        axes = tuple(a for a in range(values.ndim) if a != 1)
        self._count += values.size // max(values.shape[1], 1)
        self._sum = self._sum + values.sum(axis=axes)
        self._square = self._square + np.square(values).sum(axis=axes)

    @property
    def mean(self) -> Array:
        """``(channels,)`` float64."""
        return self._sum / max(self._count, 1)

    @property
    def variance(self) -> Array:
        """``(channels,)`` float64, of the whole."""
        return np.maximum(self._square / max(self._count, 1) - np.square(self.mean), 0.0)

    @property
    def std(self) -> Array:
        """Square root of the variance."""
        return np.sqrt(self.variance)


def divergence(seen: Moments, mean: Array, variance: Array) -> float:
    """Mean over the channels of ``ln(1 + KL)``, KL of normals with the moments seen from those stored.

    The logarithm keeps a few channels that hardly vary from deciding alone.
    """
    stored = np.maximum(variance, TINY)
    ratio = (seen.variance + TINY) / stored
    kl = 0.5 * (ratio + np.square(seen.mean - mean) / stored - 1 - np.log(ratio))
    return float(np.log1p(np.maximum(kl, 0.0)).mean())


def information(outputs: Array) -> float:
    """Mutual information (nats) of sample and class: entropy of the mean distribution minus the mean entropy.

    Args:
        outputs: ``(samples, classes)``, probabilities or logits.
    """
    values = outputs.astype(np.float64)
    sums = values.sum(axis=1)
    if values.min() >= 0 and np.allclose(sums, 1, atol=1e-3):
        shares = values / sums[:, None]
    else:
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    return max(_entropy(shares.mean(axis=0)) - float(np.mean([_entropy(row) for row in shares])), 0.0)


def _entropy(shares: Array) -> float:
    return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())
