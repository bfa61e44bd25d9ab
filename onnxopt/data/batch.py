"""Calls of a chosen batch size, made from the samples at hand.

Which axis of an input is the batch is told by a symbol: the first that has "batch" in its name, else that of the first
axis of the first input whose first axis is free. An input that has the symbol on another axis, such as an LSTM state
``(2, batch, 128)``, is batched there; one that does not have it is shared by all samples of a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.data.dataset import Array
from onnxopt.errors import DataError

__all__ = ["batch_axes", "batch_size", "batches", "bounded"]

Feeds = Mapping[str, Array]

NO_NAME = re.compile(r"unk__\d+|DynamicDimension\.\d+|\?|-1|None")
"""Symbols that converters number through: they say that a size is free, not that two sizes are the same."""
MOST_BYTES = 64 << 20
"""Samples that are held in memory: a larger batch repeats them."""


def batch_axes(specs: Sequence[TensorSpec]) -> dict[str, int]:
    """Input name -> the axis that counts samples; empty where the batch is fixed or there is none."""
    symbol, is_found = _symbol(specs)
    if not is_found:
        return {}
    axes: dict[str, int] = {}
    for spec in specs:
        if symbol is not None and spec.shape is not None and symbol in spec.shape:
            axes[spec.name] = spec.shape.index(symbol)
        elif spec.shape is None or (spec.shape and not isinstance(spec.shape[0], int) and not _says(spec.shape[0])):
            axes[spec.name] = 0
    return axes


def batch_size(feeds: Feeds, specs: Sequence[TensorSpec]) -> int:
    """Samples of one call: the size of the batch axis, or of the first axis of the first input that has one."""
    for name, axis in batch_axes(specs).items():
        if name in feeds and feeds[name].ndim > axis:
            return feeds[name].shape[axis]
    return next((array.shape[0] for array in feeds.values() if array.ndim), 1)


def bounded(samples: Iterable[Feeds], most: int) -> list[Feeds]:
    """The first samples: at most that many, and as many as 64 MiB hold, but one."""
    kept: list[Feeds] = []
    held = 0
    for sample in samples:
        kept.append(sample)
        held += sum(array.nbytes for array in sample.values())
        if len(kept) >= most or held >= MOST_BYTES:
            break
    return kept


def batches(samples: Sequence[Feeds], specs: Sequence[TensorSpec], size: int, *, most: int) -> list[Feeds]:
    """Calls of exactly ``size`` samples.

    Samples whose shapes are equal but for the batch axis are joined, in order. Too few of them are repeated; what does
    not fill a further call is left out.

    Args:
        samples: Calls that the model takes.
        specs: The inputs of the model.
        size: Samples of a call.
        most: Calls that are enough.

    Raises:
        DataError: The model takes batches of another size only.
    """
    axes = batch_axes(specs)
    if not axes:
        _require_fixed(samples, specs, size)
        return list(samples[:most])
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[Feeds]] = {}
    for sample in samples:
        groups.setdefault(_kind(sample, axes), []).append(sample)
    rounds = [list(_joined(group, axes, size, most)) for group in groups.values()]
    longest = max((len(calls) for calls in rounds), default=0)
    return [calls[i] for i in range(longest) for calls in rounds if i < len(calls)][:most]


def _symbol(specs: Sequence[TensorSpec]) -> tuple[str | None, bool]:
    """The symbol of the batch (``None``: it has no name), and whether there is a free batch axis at all."""
    named = (d for spec in specs for d in spec.shape or () if isinstance(d, str) and "batch" in d.lower())
    symbol = next(named, None)
    if symbol is not None:
        return symbol, True
    for spec in specs:
        if spec.shape is None:
            return None, True
        if spec.shape and not isinstance(spec.shape[0], int):
            return spec.shape[0] if _says(spec.shape[0]) else None, True
    return None, False


def _says(symbol: str | None) -> bool:
    """Whether a dimension has a name that means something."""
    return bool(symbol) and NO_NAME.fullmatch(symbol) is None


def _kind(sample: Feeds, axes: Mapping[str, int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes, without the batch axes."""
    return tuple(
        (name, tuple(size for axis, size in enumerate(array.shape) if axis != axes.get(name, -1)))
        for name, array in sample.items()
    )


def _joined(group: Sequence[Feeds], axes: Mapping[str, int], size: int, most: int) -> Iterator[Feeds]:
    """Calls of ``size`` from samples of one kind; inputs without a batch axis come from the first sample of a call."""
    rows = [(i, row) for i, sample in enumerate(group) for row in range(_rows(sample, axes))]
    if not rows:
        return
    for k in range(min(most, max(1, len(rows) // size))):
        chosen = [rows[(k * size + j) % len(rows)] for j in range(size)]
        call: dict[str, Array] = {}
        for name, first in group[chosen[0][0]].items():
            axis = axes.get(name)
            parts = [] if axis is None else [np.take(group[i][name], [row], axis) for i, row in chosen]
            call[name] = first if axis is None else np.concatenate(parts, axis)
        yield call


def _rows(sample: Feeds, axes: Mapping[str, int]) -> int:
    return min(sample[name].shape[axis] for name, axis in axes.items() if name in sample)


def _require_fixed(samples: Sequence[Feeds], specs: Sequence[TensorSpec], size: int) -> None:
    found = {batch_size(sample, specs) for sample in samples}
    if found == {size} and any(array.ndim for array in samples[0].values()):
        return
    raise DataError(
        f"the model takes batches of {', '.join(map(str, sorted(found)))} only, not of {size}",
        where="; ".join(str(spec) for spec in specs) or "a model without inputs",
        fix=f"leave {size} out of --batch, or export the model with a dynamic batch dimension",
    )
