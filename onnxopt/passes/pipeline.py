"""Runs passes on a copy of a model and verifies the result against the file it came from.

The result is verified once, at the end; only when that fails are the passes run again one by one to name the culprit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import onnx_ir as ir

from onnxopt.core.check import problems
from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, graphs, input_specs
from onnxopt.core.report import Note
from onnxopt.errors import VerificationError
from onnxopt.evaluate.made_up import made_up
from onnxopt.evaluate.verify import verify
from onnxopt.passes.base import Context, Pass
from onnxopt.run.session import Feeds

__all__ = ["ROUNDS", "SAMPLES", "Record", "run"]

ROUNDS = 3
"""Most rounds that clean-ups get to enable each other."""
MADE_UP_SAMPLES = 2
SAMPLES = 8
"""Samples of the data that a changed model is compared on."""
RTOL, RTOL_16_BIT = 1e-3, 1e-2
"""Tolerated difference relative to the largest magnitude of an output; 16-bit floats resolve 0.1 % to 0.8 %."""


@dataclass(frozen=True)
class Record:
    """What one pass did.

    Attributes:
        name: Name of the pass.
        changes: Places changed, over all rounds.
        seconds: Time in the pass, verification not included.
        notes: Candidates that it declined when it last ran, with the reason.
    """

    name: str
    changes: int
    seconds: float
    notes: tuple[Note, ...] = ()


def run(
    model: Model, passes: Sequence[Pass], ctx: Context, *, reference: Path, rounds: int = 1
) -> tuple[Model, tuple[Record, ...]]:
    """The model after ``passes``, verified, and one record a pass; ``model`` itself is not changed.

    Args:
        model: The model in ``reference``.
        passes: What to run, in this order.
        ctx: Data (made up from the inputs when there are none), target and a folder for intermediate files.
        reference: The file to compare with.
        rounds: Most times the list is run; it stops earlier when a round changes nothing.

    Raises:
        VerificationError: The result is not equivalent to the reference; it names the pass that broke it.
    """
    current = model.clone()
    records = {index: Record(item.name, 0, 0.0) for index, item in enumerate(passes)}
    for _ in range(rounds):
        changed = 0
        for index, item in enumerate(passes):
            with ctx.progress.task(item.name, None):
                start = time.perf_counter()
                result = item.run(current, ctx)
                seconds = time.perf_counter() - start
            current = result.model
            changed += result.changes
            old = records[index]
            records[index] = Record(item.name, old.changes + result.changes, old.seconds + seconds, result.notes)
        if not changed:
            break
    done = tuple(records.values())
    if any(record.changes for record in done):
        active = [item for item, record in zip(passes, done, strict=True) if record.changes]
        try:
            _verify(current, ctx, reference, exact=not any(item.lossy for item in active))
        except VerificationError as error:
            raise _blame(model, passes, ctx, reference, rounds, error) from error
    return current, done


def _verify(model: Model, ctx: Context, reference: Path, *, exact: bool) -> None:
    candidate = ctx.workdir / "candidate.onnx"
    save_scratch(model, candidate)
    found = problems(candidate)
    if found and not problems(reference):
        raise VerificationError(
            f"the changed model is not valid: {found[0]}", where=reference.name, fix="report it as a defect of the pass"
        )
    feeds = _feeds(model, ctx, reference)
    verify(reference, candidate, feeds, ctx.target, rtol=RTOL_16_BIT if _has_16_bit(model) else RTOL, exact=exact)


def _blame(
    model: Model, passes: Sequence[Pass], ctx: Context, reference: Path, rounds: int, error: VerificationError
) -> VerificationError:
    """The error that names the first pass after which the model is not equivalent."""
    current, exact = model.clone(), True
    for item in (item for _ in range(rounds) for item in passes):
        result = item.run(current, ctx)
        current = result.model
        exact = exact and not (item.lossy and result.changes)
        if not result.changes:
            continue
        try:
            _verify(current, ctx, reference, exact=exact)
        except VerificationError as cause:
            named = VerificationError(
                f"pass {item.name!r} broke the model: {cause.what}",
                where=cause.where,
                fix=f"run without {item.name!r}, and report the model that shows it",
            )
            named.__cause__ = cause
            return named
    return error


def _feeds(model: Model, ctx: Context, reference: Path) -> Iterable[Feeds]:
    data = ctx.data
    if data is None:
        data = made_up(reference, input_specs(model), ctx.target, samples=MADE_UP_SAMPLES, seed=ctx.seed)
    return (sample.feeds for sample in islice(data, SAMPLES))


def _has_16_bit(model: Model) -> bool:
    short = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return any(value.dtype in short for graph in graphs(model) for node in graph for value in node.outputs) or any(
        value.dtype in short for value in model.graph.initializers.values()
    )
