"""Random feeds for models of frameworks, with the free axes at chosen sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.run.session import Feeds

__all__ = ["BATCH", "batch_symbol", "drawn", "other_size"]

BATCH = "batch"
"""The name that exporters here give to the batch axis."""
INTEGERS = 2
"""Integers are drawn below this where nothing is known about them: valid as flags, masks and ids."""


def batch_symbol(specs: Sequence[TensorSpec]) -> str | None:
    """The symbol of the batch: the first axis of the first input that has axes, where it is free."""
    shape = next((spec.shape for spec in specs if spec.shape), None)
    return shape[0] if shape and isinstance(shape[0], str) else None


def other_size(size: int) -> int:
    """A second size for a free axis that is ``size`` usually: what networks that halve an axis five times take too."""
    return size + 32 if size >= 32 else 2 * size


def drawn(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int, below: Mapping[str, int] | None = None
) -> Feeds:
    """Random feeds: floats normal, integers from 0, booleans true, strings ``"a"``.

    Args:
        specs: The inputs; each axis a size or a symbol.
        sizes: Size of each symbol.
        seed: Of the values.
        below: Bound of the integers of an input, by name; default: 2.
    """
    generator = np.random.default_rng(seed)
    shapes = {s.name: tuple(sizes[d] if isinstance(d, str) else d or 1 for d in s.shape or ()) for s in specs}
    return {
        spec.name: _values(spec, shapes[spec.name], (below or {}).get(spec.name, INTEGERS), generator) for spec in specs
    }


def _values(spec: TensorSpec, shape: tuple[int, ...], below: int, generator: np.random.Generator) -> Array:
    dtype = spec.dtype
    if dtype is None or dtype.kind in "USO":
        return np.full(shape, "a", dtype=object)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        return generator.integers(0, 256 if dtype == np.uint8 else below, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
