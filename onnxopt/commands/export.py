"""``export``: a model of a framework as ONNX, written only when ONNX Runtime computes what the framework does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.commands.common import Source, open_given, workspace
from onnxopt.commands.export_report import Attempt, export_report
from onnxopt.commands.provenance import stamp_export
from onnxopt.core.atomic import check_writable
from onnxopt.core.check import problems
from onnxopt.core.io import load, save, save_scratch
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.report import Note, Report, Status, Verdict
from onnxopt.errors import ModelError, OnnxoptError, UsageError, nearest
from onnxopt.frameworks.base import Exporter, Original, Request, root_cause
from onnxopt.frameworks.locate import first_difference
from onnxopt.frameworks.opening import open_original
from onnxopt.frameworks.parity import Case, cases_of, own_difference, parity, worst
from onnxopt.frameworks.specs import describe, described_by_data
from onnxopt.frameworks.tidy import tidy
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

__all__ = ["export"]

AUTO = "auto"


def export(
    origin: str,
    output: Path,
    source: Source | None = None,
    *,
    inputs: Sequence[str] = (),
    exporter: str = AUTO,
    opset_version: int | None = None,
    tolerance: float | None = None,
    trust: bool = False,
    target: Target | None = None,
    keep_failing: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Writes a model of a framework as ONNX when ONNX Runtime gives the framework's outputs on several calls.

    Args:
        origin: ``package.module:function``, a ``.pt2``, TorchScript or other file, or a folder (docs/export.md).
        output: Where the ONNX file goes.
        source: Samples to compare on; without, they are random.
        inputs: ``NAME:DTYPE[AXES]`` for each input, where the source does not tell, or to give free axes a size.
        exporter: Only the one of that name; ``"auto"``: the first that passes.
        opset_version: Of the operators; default: what the exporter takes to be best.
        tolerance: Largest difference as a share of the largest value of an output; default: by dtype.
        trust: Files may be read that can run any code (pickles).
        target: Where the exported model runs.
        keep_failing: Write what the last exporter made even when it differs.
        progress: Told of each exporter.

    Raises:
        UsageError: A wrong option, or inputs that nobody describes.
        InputError: The source or the data cannot be used, or an extra is missing.
        ModelError: No exporter can write the model.
    """
    source, target, progress = source or Source(), target or Target(), progress or SilentProgress()
    final = check_writable(Path(output))
    if Path(origin).exists() and final == Path(origin).resolve():
        fix = "give another name with -o"
        raise UsageError("the output is an input; inputs are never changed", where=str(output), fix=fix)
    specs, sizes = describe(inputs)
    assumed = () if source.path is None else described_by_data(source.path, source.labels)
    with progress.task("open", None):
        original = open_original(origin, Request(specs, sizes, trust, source.seed, assumed))
    data = open_given(source, original.inputs)
    ways = _chosen(original.exporters(opset_version), exporter)
    cases, refused = cases_of(original, data, source.seed)
    notes = [*original.notes, *refused]
    with workspace() as folder:
        attempts = _attempts(ways, original, cases, folder, target, tolerance, progress)
        notes += [Note(a.exporter.name, "failed", a.failure) for a in attempts if a.failure]
        best = _best(attempts)
        if best is None:
            raise _no_exporter(origin, original, attempts)
        verdict, more = _judge(best, attempts, original, cases, folder, target, tolerance)
        written = verdict.status is Status.PASS or keep_failing
        weights = original.fingerprint()
        if best.model is not None and written:
            stamp_export(best.model, original, weights, best.exporter.name, parity=best.passed, data=data)
            save(best.model, final)
        return export_report(verdict, original, weights, attempts, best, tuple(notes + more), written=written)


def _chosen(ways: Sequence[Exporter], name: str) -> Sequence[Exporter]:
    if name == AUTO:
        return ways
    found = [way for way in ways if way.name == name]
    if not found:
        known = [AUTO, *(way.name for way in ways)]
        raise UsageError(f"there is no exporter {name!r} here", where="--exporter", fix=nearest(name, known))
    return found


def _attempts(
    ways: Sequence[Exporter],
    original: Original,
    cases: Sequence[Case],
    folder: Path,
    target: Target,
    tolerance: float | None,
    progress: Progress,
) -> list[Attempt]:
    """What each exporter makes, in order, until one passes without a loop."""
    attempts: list[Attempt] = []
    with progress.task("export", len(ways)) as advance:
        for index, way in enumerate(ways):
            progress.note(f"{way.name}: writing and comparing")
            attempts.append(_attempt(way, original, cases, folder, index, target, tolerance))
            advance(1)
            if attempts[-1].passed and not attempts[-1].has_loops:
                break
    return attempts


def _attempt(
    way: Exporter,
    original: Original,
    cases: Sequence[Case],
    folder: Path,
    index: int,
    target: Target,
    tolerance: float | None,
) -> Attempt:
    made = Attempt(way, folder / f"raw{index}.onnx", folder / f"export{index}.onnx")
    try:
        way.write(made.raw)
    except Exception as error:  # exporters raise anything
        return replace(made, failure=f"cannot write the model: {root_cause(error)}")
    try:
        model = load(made.raw)
        tidy(model, original)
        save_scratch(model, made.path)
        wrong = problems(made.path)
        if wrong:
            return replace(made, failure=f"writes a model that is not valid: {wrong[0]}")
        open_session(made.path, target)
    except OnnxoptError as error:
        return replace(made, failure=error.what)
    return replace(made, model=model, rows=tuple(parity(made.path, original, cases, target, tolerance)))


def _best(attempts: Sequence[Attempt]) -> Attempt | None:
    """One that passes and has no loop, else one that passes, else the first that could be compared."""
    passed = [attempt for attempt in attempts if attempt.passed]
    without = [attempt for attempt in passed if not attempt.has_loops]
    compared = [attempt for attempt in attempts if attempt.rows]
    return next(iter([*without, *passed, *compared]), None)


def _judge(
    best: Attempt,
    attempts: Sequence[Attempt],
    original: Original,
    cases: Sequence[Case],
    folder: Path,
    target: Target,
    tolerance: float | None,
) -> tuple[Verdict, list[Note]]:
    if best.passed:
        largest = worst(best.rows)
        differs = "" if largest is None else f", largest relative difference {largest:.2g}"
        calls = f"{len(cases)} call" + ("s" if len(cases) > 1 else "")
        return Verdict(
            Status.PASS, f"{best.exporter.name}: {original.framework} and ONNX agree on {calls}{differs}"
        ), []
    failed = next(row for row in best.rows if not row.passed)
    how = failed.reason or f"relative difference {failed.max_rel:.2g}, tolerance {failed.tolerance:.2g}"
    said = f"{best.exporter.name}: output {failed.output!r} differs at {failed.case}: {how}"
    unsteady = own_difference(original, cases)
    if unsteady is not None:
        said += (
            f"; {original.framework} itself does not repeat {unsteady!r}: something is random in evaluation mode too"
        )
    wrong = [attempt for attempt in attempts if attempt.rows and not attempt.passed and unsteady is None]
    notes = [_located(attempt, cases, folder, target, tolerance) for attempt in wrong]
    first = next((f"; {note.reason}" for note in notes if note.verdict == "differs"), "")
    return Verdict(Status.FAIL, said + first), notes


def _located(attempt: Attempt, cases: Sequence[Case], folder: Path, target: Target, tolerance: float | None) -> Note:
    """Which node of the graph is the first to differ, on the first call that does."""
    name = attempt.exporter.name
    if attempt.exporter.intermediates is None:
        return Note(name, "unnamed", "this exporter does not say which value is which, so no node can be named")
    title = next(row.case for row in attempt.rows if not row.passed)
    feeds = next(case.feeds for case in cases if case.title == title)
    try:
        values = attempt.exporter.intermediates(attempt.raw, feeds)
        found = first_difference(attempt.raw, values, feeds, target, folder, tolerance)
    except Exception as error:  # the framework, or ONNX Runtime on a graph that is wrong
        return Note(name, "unnamed", f"the first node that differs cannot be searched for: {root_cause(error)}")
    if found is None:
        reason = f"{len(values)} intermediate values can be compared and agree: the difference arises after the last"
        return Note(name, "unnamed", reason if values else "no intermediate value can be compared")
    return Note(name, "differs", str(found))


def _no_exporter(origin: str, original: Original, attempts: Sequence[Attempt]) -> ModelError:
    reasons = "; ".join(f"{attempt.exporter.name} {attempt.failure}" for attempt in attempts)
    return ModelError(
        f"no exporter can write this model: {reasons or 'there is none'}",
        where=f"{Path(origin).name}: {'; '.join(map(str, original.inputs))}",
        fix="replace that operation in the model, try another --opset, or fix axes with --input",
    )
