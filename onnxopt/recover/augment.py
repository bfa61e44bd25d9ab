"""Variations of images that need no labels: the teacher answers on the varied image.

``shift``: by up to an eighth of the size, the edge repeated. ``flip``: left and right swapped in half of the cases.
``crop``: a window of three quarters to all of each side, stretched to the old size. ``mixup`` (Zhang et al. 2018): a
mean of two images of the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Sample
from onnxopt.errors import UsageError
from onnxopt.evaluate.outputs import is_floating

__all__ = ["image_axes", "varied"]

CHANNELS = (1, 3, 4)


def image_axes(specs: Sequence[TensorSpec], augment: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Names of the inputs that are images, with the axes of height and width.

    Raises:
        UsageError: There is none, and images are to be varied.
    """
    found: dict[str, tuple[int, int]] = {}
    for spec in specs:
        shape = spec.shape
        if shape is None or len(shape) != 4 or spec.dtype is None or spec.dtype.kind != "f":
            continue
        if shape[1] in CHANNELS:
            found[spec.name] = (2, 3)
        elif shape[3] in CHANNELS:
            found[spec.name] = (1, 2)
    if augment and not found:
        raise UsageError(
            "no input is an image (four axes, with 1, 3 or 4 channels)",
            where=f"--augment {','.join(augment)}",
            fix="leave --augment out",
        )
    return found


def varied(
    samples: Sequence[Sample], axes: Mapping[str, tuple[int, int]], augment: Sequence[str], rng: np.random.Generator
) -> list[Sample]:
    """The samples with other images; labels stay with theirs."""
    found: list[Sample] = []
    for sample in samples:
        feeds = dict(sample.feeds)
        for name, (height, width) in axes.items():
            image = feeds[name]
            if "crop" in augment:
                image = _crop(image, height, rng)
                image = _crop(image, width, rng)
            if "shift" in augment:
                image = _shift(image, height, rng)
                image = _shift(image, width, rng)
            if "flip" in augment and rng.random() < 0.5:
                image = np.flip(image, width)
            feeds[name] = np.ascontiguousarray(image)
        found.append(replace(sample, feeds=feeds))
    return _mixed(found, axes, rng) if "mixup" in augment else found


def _shift(image: Array, axis: int, rng: np.random.Generator) -> Array:
    size = int(image.shape[axis])
    by = int(rng.integers(-(size // 8), size // 8 + 1))
    return np.take(image, np.clip(np.arange(size) + by, 0, size - 1), axis)


def _crop(image: Array, axis: int, rng: np.random.Generator) -> Array:
    size = int(image.shape[axis])
    length = rng.uniform(0.75, 1.0) * (size - 1)
    start = rng.uniform(0, size - 1 - length) if size > 1 else 0.0
    place: Array = start + np.linspace(0, length, size)
    low = np.floor(place).astype(np.int64).clip(0, size - 1)
    share = (place - low).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    mixed = np.take(image, low, axis) * (1 - share) + np.take(image, (low + 1).clip(0, size - 1), axis) * share
    return mixed.astype(image.dtype)


def _mixed(samples: Sequence[Sample], axes: Mapping[str, tuple[int, int]], rng: np.random.Generator) -> list[Sample]:
    partners = rng.permutation(len(samples))
    found: list[Sample] = []
    for sample, index in zip(samples, partners, strict=True):
        share = float(rng.uniform(0.5, 1.0))
        feeds = dict(sample.feeds)
        for name in axes:
            other = samples[int(index)].feeds[name]
            if other.shape == feeds[name].shape and is_floating(other):
                feeds[name] = (share * feeds[name] + (1 - share) * other).astype(other.dtype)
        found.append(replace(sample, feeds=feeds))
    return found
