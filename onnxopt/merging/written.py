"""Builds the file of an ensemble and compares it with the numpy ensemble of separate sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt.core.check import problems
from onnxopt.core.draw import Drawing
from onnxopt.core.io import EXTERNAL_THRESHOLD, save_scratch, total_bytes
from onnxopt.core.query import Model, TensorSpec
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import InputError, VerificationError
from onnxopt.merging.align import Alignment
from onnxopt.merging.combine import finish, join, spec_value
from onnxopt.merging.horizontal.fuse import Fused, fuse
from onnxopt.merging.rules import Combination
from onnxopt.merging.trunk import Shared, share_work
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

__all__ = ["Difference", "build", "build_fused", "output_spec", "save_checked", "verify_batch", "verify_outputs"]

TOLERANCE = 1e-5
"""Largest difference from the numpy ensemble, relative to its largest magnitude (from 1 up)."""
TOLERANCES = {"float16": 2e-3, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Difference:
    """How far a written ensemble is from separate sessions.

    Attributes:
        samples: Calls that were compared.
        max_abs: Largest absolute difference.
    """

    samples: int
    max_abs: float


def build(alignment: Alignment, combination: Combination, *, share: bool = True) -> tuple[Model, Shared]:
    """The ensemble as one model, with equal work done once where ``share`` says so."""
    chosen = [alignment.members[k] for k in combination.keep]
    joined = join(alignment, chosen)
    spec = output_spec(alignment)
    drawing = Drawing(joined.editor, joined.model.graph, "ensemble")
    brought = combination.bring(drawing, joined.values)
    model = finish(joined, combination.draw(drawing, brought, spec_value(spec).dtype or ir.DataType.FLOAT), spec)
    return share_work(model) if share else (model, Shared(0, 0, 0))


def build_fused(alignment: Alignment, combination: Combination) -> tuple[Model, Fused] | None:
    """The same with members of one architecture computed together; ``None``: there are none.

    Equal work is done once first, so that a common trunk stays one.
    """
    joined = join(alignment, [alignment.members[k] for k in combination.keep])
    graph, spec = joined.model.graph, output_spec(alignment)
    drawing = Drawing(joined.editor, graph, "ensemble")
    brought = combination.bring(drawing, joined.values)
    if any(value.producer() is None for value in brought) or total_bytes(joined.model) > EXTERNAL_THRESHOLD:
        return None
    graph.outputs.extend(brought)
    share_work(joined.model)
    infer_shapes(joined.model)
    brought = list(graph.outputs)
    graph.outputs.clear()
    fused = fuse(drawing, brought)
    if not fused.operators:
        return None
    kind = spec_value(spec).dtype or ir.DataType.FLOAT
    output = combination.draw(drawing, fused.values, kind, fused.stacked)
    graph.sort()
    return finish(joined, output, spec), fused


def output_spec(alignment: Alignment) -> TensorSpec:
    """The ensemble's output: called, typed and shaped as that of the first member."""
    first = alignment.members[0]
    spec, symbols = first.spec, alignment.symbols[0]
    shape = spec.shape
    if shape is not None:
        bound = _bound(alignment)
        shape = tuple(bound.get(d, symbols.get(d, d)) if isinstance(d, str) else d for d in shape)
    return replace(spec, shape=shape)


def _bound(alignment: Alignment) -> dict[str, int | str]:
    """Free sizes of the first member's inputs that another member fixes."""
    found: dict[str, int | str] = {}
    first = alignment.members[0]
    shared = {spec.name: spec for spec in alignment.inputs}
    for spec in first.inputs:
        if spec.name in first.adapters:
            continue
        other = shared[first.feeds[spec.name]].shape
        if spec.shape is None or other is None:
            continue
        for own, size in zip(spec.shape, other, strict=True):
            if isinstance(own, str) and size is not None:
                found[own] = size
    return found


def save_checked(model: Model, path: Path, target: Target) -> None:
    """Writes the model where nothing else looks, checks and loads it.

    Raises:
        VerificationError: It is not valid, or ONNX Runtime does not load it.
    """
    save_scratch(model, path)
    found = problems(path)
    if found:
        raise VerificationError(
            f"the merged model is not valid: {found[0]}", where=path.name, fix="report the members that show it"
        )
    try:
        open_session(path, target)
    except InputError as error:
        raise VerificationError(
            f"the merged model does not load: {error.what}", where=path.name, fix="report the members that show it"
        ) from error


def verify_outputs(path: Path, data: Dataset, expected: Sequence[Array], target: Target) -> Difference:
    """The largest difference from what separate sessions and numpy give.

    Raises:
        VerificationError: It is above the tolerance.
    """
    session = open_session(path, target)
    largest = 0.0
    for sample, wanted in zip(data, expected, strict=False):
        largest = max(largest, _compare(session.run(sample.feeds)[session.outputs[0]], wanted, path))
    return Difference(min(len(expected), len(data)), largest)


def _compare(found: Array, wanted: Array, path: Path) -> float:
    """The largest difference of finite numbers.

    Raises:
        VerificationError: It is above the tolerance.
    """
    if found.shape != wanted.shape:
        raise _failure(f"the output has shape {list(found.shape)} instead of {list(wanted.shape)}", path)
    finite = np.isfinite(wanted)
    gap = np.abs(found.astype(np.float64) - wanted)[finite]
    magnitude = max(1.0, float(np.abs(wanted[finite]).max(initial=0.0)))
    limit = TOLERANCES.get(found.dtype.name, TOLERANCE) * magnitude
    largest = float(gap.max(initial=0.0))
    if not largest <= limit:
        raise _failure(f"it differs from separate sessions by {largest:.3g}, allowed {limit:.3g}", path)
    return largest


def verify_batch(path: Path, reference: Path, data: Dataset, target: Target) -> None:
    """Nothing, when both files give the same for the first two samples as one batch, where the reference takes these.

    Raises:
        VerificationError: They do not.
    """
    first, second = data[0].feeds, data[min(1, len(data) - 1)].feeds
    if any(not a.ndim or a.shape[1:] != second[name].shape[1:] for name, a in first.items()):
        return
    feeds = {name: np.concatenate([array, second[name]]) for name, array in first.items()}
    session = open_session(reference, target)
    try:
        wanted = session.run(feeds)[session.outputs[0]]
    except InputError:
        return
    session = open_session(path, target)
    try:
        found = session.run(feeds)[session.outputs[0]]
    except InputError as error:
        raise _failure(f"on a larger batch, {error.what}", path) from error
    _compare(found, wanted.astype(np.float64), path)


def _failure(what: str, path: Path) -> VerificationError:
    return VerificationError(
        f"the merged model is not the ensemble of its members: {what}",
        where=path.name,
        fix="nothing was written; report the members that show it",
    )
