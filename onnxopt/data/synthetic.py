"""Feeds made up from the inputs of a model, for when the user gives no data.

Free dimensions are guessed until the model runs. Equal outputs on made-up feeds show that a rewrite is right, not that
accuracy holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.data.check import require_tensors
from onnxopt.data.content import Digest
from onnxopt.data.dataset import Array, Dataset, Sample
from onnxopt.errors import DataError

__all__ = ["synthetic"]

_SIZES = (16, 1, 8, 32, 64, 128, 224, 3)
_RANKS = (0, 1, 2, 4)
_MAX_ELEMENTS = 1 << 22
_MAX_TRIES = 300
_TOP = (10, 2, 1)
"""Integers are drawn below the first of these, then the next: token ids, then flags, then zero."""

_Sizes = Mapping[str, int]


def synthetic(
    specs: Sequence[TensorSpec],
    accepts: Callable[[Mapping[str, Array]], bool],
    *,
    samples: int = 8,
    seed: int = 0,
) -> Dataset:
    """Made-up samples that the model takes; one empty feed for a model without inputs.

    Floats are normal, integers small and not negative (0 or 1, first 1, for masks and types; all 256 values for uint8),
    booleans true, strings ``"a"``. A free first dimension is 1, the same symbol has the same size everywhere, and a
    symbol such as ``"past + 1"`` is computed from its parts.

    Args:
        specs: The inputs of the model.
        accepts: Whether the model runs on these feeds.
        samples: How many to make.
        seed: Seeds the values.

    Raises:
        DataError: An input is no tensor, or no guess is accepted.
    """
    if not specs:
        return _dataset(_Recipe((), (), 1, seed), 1)
    require_tensors(specs, "the model's inputs")
    for recipe in itertools.islice(_recipes(specs, seed), _MAX_TRIES):
        if all(accepts(recipe.read(index).feeds) for index in range(samples)):
            return _dataset(recipe, samples)
    raise DataError(
        "no made-up feeds make the model run, whatever the free dimensions are set to",
        where="; ".join(str(spec) for spec in specs),
        fix="give real samples with --data",
    )


@dataclass(frozen=True)
class _Recipe:
    """How feeds are drawn: the shape of each input, and the bound of the integers."""

    specs: tuple[TensorSpec, ...]
    shapes: tuple[tuple[int, ...], ...]
    top: int
    seed: int

    def read(self, index: int) -> Sample:
        generator = np.random.default_rng((self.seed, index))
        pairs = zip(self.specs, self.shapes, strict=True)
        return Sample({spec.name: _values(spec, shape, self.top, generator) for spec, shape in pairs})


def _dataset(recipe: _Recipe, samples: int) -> Dataset:
    digest = Digest("synthetic")
    for index in range(samples):
        for name, array in recipe.read(index).feeds.items():
            digest.text(name)
            digest.array(array)
    note = "no data given: samples were made up from the input shapes " + ", ".join(map(str, recipe.shapes))
    return Dataset(
        "synthetic", recipe.read, tuple(range(samples)), digest.hex(), False, synthetic=True, notes=(note.strip(),)
    )


def _recipes(specs: Sequence[TensorSpec], seed: int) -> Iterator[_Recipe]:
    """From likely to far-fetched: one size for all free dimensions, then for the batch too, then every combination."""
    has_integers = any(spec.dtype is not None and spec.dtype.kind in "iu" for spec in specs)
    tops = _TOP if has_integers else _TOP[:1]
    ranks = _RANKS if any(spec.shape is None for spec in specs) else (0,)
    seen: set[tuple[tuple[tuple[int, ...], ...], int]] = set()
    for rank in ranks:
        free, batch = _free(specs, rank)
        uniform = (dict.fromkeys(free, size) for size in _SIZES)
        batched = (dict.fromkeys((*batch, *free), size) for size in _SIZES)
        products = itertools.product(_SIZES[::-1], repeat=len(free)) if len(free) <= 4 else ()
        mixed = (dict(zip(free, sizes, strict=True)) for sizes in products)
        for sizes in itertools.chain(uniform, batched, mixed):
            shapes = _shapes(specs, rank, sizes)
            if shapes is None:
                continue
            for top in tops:
                if (shapes, top) not in seen:
                    seen.add((shapes, top))
                    yield _Recipe(tuple(specs), shapes, top, seed)


def _free(specs: Sequence[TensorSpec], rank: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the dimensions to guess, and of the first ones of an input (its batch), in order."""
    batch: dict[str, None] = {}
    free: dict[str, None] = {}
    for spec in specs:
        for axis, dim in enumerate(_dims(spec, rank)):
            if not isinstance(dim, int):
                into = free if axis else batch
                into.update((part, None) for part in _parts(_key(spec, axis, dim)) if not part.isdecimal())
    return tuple(key for key in free if key not in batch), tuple(batch)


def _shapes(specs: Sequence[TensorSpec], rank: int, sizes: _Sizes) -> tuple[tuple[int, ...], ...] | None:
    """The shape of each input, or ``None`` if one is too large to be meant."""
    shapes: list[tuple[int, ...]] = []
    for spec in specs:
        dims = _dims(spec, rank)
        shape = tuple(d if isinstance(d, int) else _size(_key(spec, a, d), sizes) for a, d in enumerate(dims))
        elements = 1
        for size in shape:
            elements *= size
        if elements > _MAX_ELEMENTS and not all(isinstance(dim, int) for dim in dims):
            return None
        shapes.append(shape)
    return tuple(shapes)


def _dims(spec: TensorSpec, rank: int) -> tuple[int | str | None, ...]:
    return (None,) * rank if spec.shape is None else spec.shape


def _key(spec: TensorSpec, axis: int, dim: str | None | int) -> str:
    return dim if isinstance(dim, str) and dim else f"\0{spec.name}\0{axis}"


def _parts(key: str) -> list[str]:
    return [key] if key.startswith("\0") else [part.strip() for part in key.split("+")]


def _size(key: str, sizes: _Sizes) -> int:
    return sum(int(part) if part.isdecimal() else sizes.get(part, 1) for part in _parts(key))


def _values(spec: TensorSpec, shape: tuple[int, ...], top: int, generator: np.random.Generator) -> Array:
    dtype = spec.dtype
    if dtype is None:
        raise DataError(
            f"input {spec.name!r} is not a tensor", where=str(spec), fix="export it with tensor inputs only"
        )
    is_flag = any(word in spec.name.lower() for word in ("mask", "type"))
    if dtype.kind == "U":
        return np.full(shape, "a")
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if is_flag:
        flags = generator.integers(0, min(top, 2), shape)
        if flags.ndim and flags.shape[-1] and "mask" in spec.name.lower():
            flags[..., 0] = 1  # a mask that hides everything leaves nothing to attend to
        return np.asarray(flags).astype(dtype)
    if dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        high = 256 if dtype == np.uint8 and top == _TOP[0] else min(top, 2) if dtype.kind == "V" else top
        return np.asarray(generator.integers(0, high, shape)).astype(dtype)
    return np.asarray(generator.standard_normal(shape, np.float32)).astype(dtype)
