"""Random feeds for models of frameworks, with the free axes at chosen sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.data.batch import batch_axes
from onnxopt.run.session import Feeds

__all__ = ["BATCH", "batch_symbol", "drawn", "feeds_of", "named_axes", "other_size", "symbols"]

BATCH = "batch"
"""The name of the batch axis where nobody gave it one."""
INTEGERS = 2
"""Integers are drawn below this where nothing is known about them: valid as flags, masks and ids."""


def symbols(specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The names of the free axes, in order."""
    return tuple(dict.fromkeys(d for spec in specs for d in spec.shape or () if isinstance(d, str)))


def batch_symbol(specs: Sequence[TensorSpec]) -> str | None:
    """The symbol of the batch axis; ``None`` where the batch is fixed or has no name."""
    by_name = {spec.name: spec for spec in specs}
    for name, axis in batch_axes(specs).items():
        shape = by_name[name].shape
        found = shape[axis] if shape else None
        if isinstance(found, str):
            return found
    return None


def named_axes(name: str, sizes: Iterable[int | None]) -> tuple[int | str, ...]:
    """The axes of an input with names for the free ones: the batch in front, ``<name>_<place>`` for all others."""
    return tuple(d if d is not None else BATCH if i == 0 else f"{name}_{i}" for i, d in enumerate(sizes))


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
        below: Bound of the integers of an input, by name; default: 2, for uint8 256.
    """
    generator, bounds = np.random.default_rng(seed), below or {}
    feeds: dict[str, Array] = {}
    for spec in specs:
        shape = tuple(sizes[d] if isinstance(d, str) else d or 1 for d in spec.shape or ())
        feeds[spec.name] = _values(spec, shape, bounds.get(spec.name), generator)
    return feeds


def feeds_of(
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    below: Mapping[str, int],
    batch: int,
    variant: int,
    seed: int,
) -> Feeds | None:
    """Random feeds, or ``None`` where an axis that is to have another size is fixed (see ``Original.feeds``)."""
    symbol = batch_symbol(inputs)
    others = [name for name in symbols(inputs) if name != symbol]
    if (symbol is None and batch != 1) or (variant and not others):
        return None
    chosen = {name: other_size(sizes[name]) if variant else sizes[name] for name in others}
    if symbol is not None:
        chosen[symbol] = batch
    return drawn(inputs, chosen, seed, below)


def _values(spec: TensorSpec, shape: tuple[int, ...], below: int | None, generator: np.random.Generator) -> Array:
    dtype = spec.dtype
    if dtype is None or dtype.kind in "USO":
        return np.full(shape, "a", dtype=object)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        top = below or (256 if dtype == np.uint8 else INTEGERS)
        return generator.integers(0, top, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
