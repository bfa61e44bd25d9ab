"""Intermediate values of a model over data, in chunks bounded by bytes.

The values, those in the bodies of control flow too, are exposed as extra outputs of a copy of the model. Only as many
are exposed at once as fit the byte budget; each chunk is one pass over the data, and no value outlives the sample it
belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.core.shapes import infer_shapes, static_shapes
from onnxopt.run.nested import expose, repeated
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = ["BUDGET_BYTES", "chunks", "observed_shapes", "tap"]

BUDGET_BYTES = 256 << 20
UNKNOWN_BYTES = 16 << 20
"""What a value is taken to need when its shape cannot be inferred."""
BYTES_PER_ELEMENT = 4


def tap(
    model: Model,
    names: Sequence[str],
    samples: Callable[[], Iterable[Feeds]],
    target: Target,
    workdir: Path,
    *,
    budget_bytes: int = BUDGET_BYTES,
) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
    """The named values, one mapping for each sample and chunk.

    Args:
        model: The model; it is not changed.
        names: Names of values (inputs, intermediate values or outputs), unique in the model; inside the bodies of
            control flow too where the opset is 13 or above.
        samples: Makes a fresh iterator over the feeds; called once a chunk.
        target: Where the model runs.
        workdir: Folder for the exposed copies.
        budget_bytes: Upper bound on the bytes exposed by one run, estimated from the first sample's shapes.

    Yields:
        Value name -> array, for the values of one chunk on one sample. Values in a body come as ``run.nested.expose``
        has them; those of local functions are missing.
    """
    inputs = {v.name for v in model.graph.inputs}
    fed = [name for name in names if name in inputs]
    computed = [name for name in names if name not in inputs]
    first = next(iter(samples()), None)
    if first is None:
        return
    sizes = _sizes(model, computed, first)
    for index, chunk in enumerate(chunks(computed, sizes, budget_bytes) or [[]]):
        path = workdir / f"tap{index}.onnx"
        outputs = _expose(model, chunk, path)
        session = open_session(path, target) if outputs else None
        for feeds in samples():
            found = session.run(feeds, list(outputs.values())) if session else {}
            values = {name: found[output] for name, output in outputs.items()}
            if index == 0:
                values.update({name: feeds[name] for name in fed})
            yield values


def observed_shapes(model: Model, feeds: Feeds, target: Target, workdir: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every value: inferred, and for values of the main graph that defeat inference seen in a run."""
    shapes = static_shapes(model, {name: array.shape for name, array in feeds.items()})
    missing = [v.name for node in model.graph for v in node.outputs if v.name and v.name not in shapes]
    for values in tap(model, missing, lambda: [feeds], target, workdir):
        shapes.update({name: value.shape for name, value in values.items() if hasattr(value, "shape")})
    return shapes


def chunks(names: Sequence[str], sizes: Mapping[str, int], budget_bytes: int) -> list[list[str]]:
    """``names`` in order, cut so that no part with more than one name exceeds the budget."""
    parts: list[list[str]] = []
    used = 0
    for name in names:
        if not parts or used + sizes[name] > budget_bytes:
            parts.append([])
            used = 0
        parts[-1].append(name)
        used += sizes[name]
    return parts


def _sizes(model: Model, names: Sequence[str], feeds: Feeds) -> dict[str, int]:
    shapes = static_shapes(model, {name: array.shape for name, array in feeds.items()})
    often = repeated(model)
    known = {n: int(np.prod(shapes[n])) * BYTES_PER_ELEMENT if n in shapes else UNKNOWN_BYTES for n in names}
    return {n: max(size, UNKNOWN_BYTES) if n in often else size for n, size in known.items()}


def _expose(model: Model, names: Sequence[str], path: Path) -> dict[str, str]:
    """Name -> output of the copy that is saved at ``path``; nothing is saved when there is none."""
    if not names:
        return {}
    copy = model.clone()
    infer_shapes(copy)
    found = expose(copy, names)
    if found:
        save_scratch(copy, path)
    return {name: found[name] for name in names if name in found}
