"""Second moments of what layers read, streamed: memory is bounded whatever the number of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.run.tap import BUDGET_BYTES, chunks, tap

__all__ = ["Inputs", "stream_grams"]

Inputs: TypeAlias = tuple[str, ...]
"""Names of the values that one weight is multiplied with, sorted."""


def stream_grams(
    model: Model, wanted: Sequence[tuple[Inputs, int]], data: Dataset, ctx: Context, *, budget_bytes: int = BUDGET_BYTES
) -> Iterator[tuple[Inputs, Array]]:
    """``X^T X`` (columns, columns) float64 over all rows of all samples of each group of values, one after the other.

    Only as many are held at once as fit the budget (one at least); each such part takes a pass over the data.

    Args:
        model: The model; it is not changed.
        wanted: Values of the main graph whose last axis is the columns, and the number of columns.
        data: The samples.
        ctx: Target and folder.
        budget_bytes: Bound on the matrices that are held at once.
    """
    columns = {"\n".join(names): count for names, count in wanted}
    groups = {"\n".join(names): names for names, _ in wanted}
    parts = chunks(list(columns), {key: count * count * 8 for key, count in columns.items()}, budget_bytes)
    with ctx.progress.task("reading layer inputs", len(parts) * len(data)) as advance:
        for part in parts:
            found = {key: np.zeros((columns[key], columns[key])) for key in part}
            names = tuple(dict.fromkeys(name for key in part for name in groups[key]))
            for index, values in enumerate(tap(model, names, lambda: (s.feeds for s in data), ctx.target, ctx.workdir)):
                for key in part:
                    for name in groups[key]:
                        if name in values:
                            rows = values[name].reshape(-1, columns[key])
                            with np.errstate(all="ignore"):  # what is not finite is seen by whoever takes the sums
                                found[key] += (rows.T @ rows).astype(np.float64)
                advance(1 if index < len(data) else 0)
            for key in part:
                yield groups[key], found.pop(key)
