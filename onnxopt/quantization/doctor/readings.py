"""Ways in which images, or other signals, become numbers, and how data given in one way look in another.

An intensity ``u`` in 0..1 becomes ``u * factor + offset`` channel by channel. Which way the data were made is read from
their range; what they would be in each of the other ways are the alternatives that the model is asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["AS_GIVEN", "Reading", "alternatives", "recognised"]

Array: TypeAlias = np.ndarray[Any, Any]

SLACK = 0.05
"""Intensities may lie this far outside of 0..1: resizing overshoots."""
SPREAD = 0.6
"""Intensities of all samples together span at least this much of 0..1."""
SCALES = (1.0, 255.0, 1 / 255)
"""What data are multiplied by once too often, or divided by."""
SIGNAL_SCALES = (255.0, 1 / 255, 32768.0, 1 / 32768)
RGB = 3


@dataclass(frozen=True)
class Convention:
    """``u * factor + offset`` for each channel of intensities ``u`` in 0..1."""

    name: str
    factor: tuple[float, ...]
    offset: tuple[float, ...]


CONVENTIONS = (
    Convention("0..1", (1.0,), (0.0,)),
    Convention("0..255", (255.0,), (0.0,)),
    Convention("-1..1", (2.0,), (-1.0,)),
    Convention(
        "ImageNet mean and std", (1 / 0.229, 1 / 0.224, 1 / 0.225), (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225)
    ),
)


@dataclass(frozen=True)
class Reading:
    """An affine map of each channel of the data as given, after their order was reversed or not.

    Attributes:
        name: What the result is, for people.
        factor: One number, or one a channel.
        offset: As many.
        is_reversed: Whether the channels change their order (BGR to RGB and back).
        is_known: Whether it is a convention, rather than fitted to the data.
    """

    name: str
    factor: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    is_reversed: bool = False
    is_known: bool = True

    def apply(self, array: Array, axis: int | None) -> Array:
        """``array`` (batch, ...) read so, float32; ``axis`` is that of the channels."""
        if self.is_reversed and axis is not None:
            array = np.flip(array, axis)
        shape = [1] * array.ndim
        if axis is not None:
            shape[axis] = -1
        factor, offset = (np.asarray(v, np.float32).reshape(shape) for v in (self.factor, self.offset))
        return np.ascontiguousarray(array * factor + offset, dtype=np.float32)


AS_GIVEN = Reading("as given")


def recognised(low: Array, high: Array) -> tuple[Convention, ...]:
    """The conventions that data of these extremes, ``(channels,)``, may be in; one may be scaled once too often."""
    found: list[Convention] = []
    for scale in SCALES:
        for known in _fitting(low.size):
            factor, offset = (np.asarray(v) * scale for v in (known.factor, known.offset))
            lows, highs = (low - offset) / factor, (high - offset) / factor
            if lows.min() >= -SLACK and highs.max() <= 1 + SLACK and highs.max() - lows.min() >= SPREAD:
                name = known.name + ("" if scale == 1 else ", times 255" if scale > 1 else ", divided by 255")
                if not any(np.allclose(factor, c.factor) and np.allclose(offset, c.offset) for c in found):
                    found.append(Convention(name, tuple(factor), tuple(offset)))
    return tuple(found)


def alternatives(given: Sequence[Convention], mean: Array, std: Array) -> tuple[Reading, ...]:
    """What the data could have been instead.

    Args:
        given: The conventions that the data may be in; none: they are no images.
        mean: Of the data as given, ``(channels,)``.
        std: Likewise.
    """
    found: dict[tuple[tuple[float, ...], tuple[float, ...], bool], Reading] = {}
    orders = (False, True) if mean.size == RGB and given else (False,)
    for source in given:
        for wanted in _fitting(mean.size):
            for is_reversed in orders:
                # Reversal exchanges the channels of the data, and with them the parameters they were made with.
                f, o = np.asarray(source.factor), np.asarray(source.offset)
                f, o = (f[::-1], o[::-1]) if is_reversed else (f, o)
                factor = np.asarray(wanted.factor) / f
                offset = np.asarray(wanted.offset) - o * factor
                name = wanted.name + (", channels reversed" if is_reversed else "")
                _add(found, Reading(name, tuple(map(float, factor)), tuple(map(float, offset)), is_reversed))
    if len(orders) > 1:
        _add(found, Reading("as given, channels reversed", is_reversed=True))
    if not given:
        for scale in SIGNAL_SCALES:
            name = f"times {scale:g}" if scale > 1 else f"divided by {1 / scale:g}"
            _add(found, Reading(name, (scale,)))
    if (std > 0).all():
        own = 1 / std
        name = "mean 0, standard deviation 1 (the data's own)"
        _add(found, Reading(name, tuple(map(float, own)), tuple(map(float, -mean * own)), is_known=False))
    return tuple(found.values())


def _fitting(channels: int) -> tuple[Convention, ...]:
    return tuple(c for c in CONVENTIONS if len(c.factor) in (1, channels))


def _add(found: dict[tuple[tuple[float, ...], tuple[float, ...], bool], Reading], reading: Reading) -> None:
    key = (
        tuple(float(f"{v:.6g}") for v in reading.factor),
        tuple(round(v, 6) for v in reading.offset),
        reading.is_reversed,
    )
    is_given = not reading.is_reversed and set(key[0]) == {1.0} and set(key[1]) == {0.0}
    if not is_given:
        found.setdefault(key, reading)
