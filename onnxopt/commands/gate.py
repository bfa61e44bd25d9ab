"""``gate``: does a candidate keep the limits against its baseline?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxopt.commands.baseline import StoredBaseline, is_stored, read_baseline
from onnxopt.commands.bench import bench
from onnxopt.commands.checks import Check, conclude
from onnxopt.commands.common import Source, as_json, data_notes, first_feeds, open_data, open_model
from onnxopt.commands.evidence import Evidence
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.limits import Limits
from onnxopt.core.atomic import write_atomic
from onnxopt.core.io import content_hash
from onnxopt.core.progress import Progress
from onnxopt.core.query import Model
from onnxopt.core.report import JSON, Note, Report, Status, Table
from onnxopt.data.dataset import Dataset
from onnxopt.errors import InputError, ModelError, UsageError
from onnxopt.evaluate.interface import interface_difference
from onnxopt.measurement.env import environment
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

__all__ = ["gate"]

WORDS = {Status.PASS: "kept", Status.FAIL: "BROKEN", Status.INCONCLUSIVE: "undecided"}


def gate(
    candidate: Path,
    baseline: Path,
    limits: Limits | None = None,
    source: Source | None = None,
    *,
    metric: str | None = None,
    output: str | None = None,
    target: Target | None = None,
    rebaseline: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Checks each limit; the report fails when one is broken, and is inconclusive when one stays undecided.

    Args:
        candidate: The model in question.
        baseline: The reference model, measured in pairs with the candidate in this run; or the JSON report of
            ``bench`` on it, whose figures are related to now by a probe model.
        limits: What to keep; default: a latency ratio below 1.03.
        source: The data; without, inputs are made up.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output: Name of the output that the metric judges.
        target: Where the models run.
        rebaseline: Measure the model of a stored baseline again first, and replace the baseline.
        progress: Told of each step.

    Raises:
        UsageError: A limit cannot be checked against this baseline.
        OnnxoptError: A model, the data or the baseline cannot be used.
    """
    limits, source, target = (limits or Limits()).or_default(), source or Source(), target or Target()
    model = open_model(candidate, target)
    block = environment(target)
    stored = read_baseline(baseline) if is_stored(baseline) else None
    if stored is None and rebaseline:
        raise UsageError(
            "the baseline is a model, which is measured in every run",
            where="--rebaseline",
            fix="leave --rebaseline out",
        )
    if stored is None:
        reference: Path | None = baseline
        data = _paired(candidate, baseline, source, target)
    else:
        if rebaseline:
            stored = _measure_again(stored, candidate, source, target, progress)
        stored.check_machine(block)
        stored.check_model(candidate, model)
        reference = stored.reference(candidate)
        data = open_data(source, reference or candidate, model, target)
        stored.check_data(data)
        _check_possible(limits, reference, stored)
    evidence = Evidence(
        candidate=candidate,
        reference=reference,
        stored=stored,
        data=data,
        feeds=first_feeds(data),
        target=target,
        limits=limits,
        metric=metric,
        output=output,
        seed=source.seed,
        progress=progress,
    )
    checks = evidence.checks()
    report = Report(
        "gate",
        conclude(checks, candidate.name),
        {
            "checks": [as_json(check) for check in checks],
            "candidate": {"file": candidate.name, "sha256": content_hash(candidate)},
            "baseline": _describe(baseline, stored),
            "limits": as_json(limits),
            "noise_floor": evidence.noise_floor(),
            "environment": block,
            "measured": evidence.measured,
            "data": {"fingerprint": data.fingerprint(), "samples": len(data), "synthetic": data.synthetic},
        },
        (_table(checks, candidate, baseline), *evidence.tables),
        _notes(reference, stored) + tuple(evidence.notes) + data_notes(data),
    )
    models = {"candidate": candidate, **({} if reference is None else {"baseline": reference})}
    return with_fallback(report, models, evidence.feeds, target)


def _paired(candidate: Path, reference: Path, source: Source, target: Target) -> Dataset:
    """The data, checked against a reference model whose interface the candidate has."""
    model: Model = open_model(reference, target)
    difference = interface_difference(open_session(reference, target), open_session(candidate, target))
    if difference is not None:
        raise ModelError(
            f"the candidate cannot stand in for the baseline: {difference}",
            where=f"{candidate.name} against {reference.name}",
            fix="give a baseline with the same inputs and outputs",
        )
    return open_data(source, reference, model, target)


def _measure_again(
    stored: StoredBaseline, candidate: Path, source: Source, target: Target, progress: Progress | None
) -> StoredBaseline:
    """The baseline after its model was measured again; the file is replaced."""
    reference = stored.reference(candidate)
    if reference is None:
        raise InputError(
            f"there is nothing to measure again: {stored.file} does not lie beside the baseline",
            where=str(stored.path),
            fix=f"put {stored.file} beside it, or give the reference model itself: --baseline REF.onnx",
        )
    report = bench([reference], source, target=target, progress=progress)
    write_atomic(stored.path, report.to_json().encode(), option="--baseline")
    return read_baseline(stored.path)


def _check_possible(limits: Limits, reference: Path | None, stored: StoredBaseline) -> None:
    needed = [name for name in ("drop", "sqnr_db") if name in limits.given()]
    if needed and reference is None:
        raise UsageError(
            "a stored baseline holds no outputs: accuracy and drift cannot be checked against it",
            where=f"{stored.path}, with a limit on {' and '.join(needed)}",
            fix=f"give the reference model itself (--baseline REF.onnx), or put {stored.file} beside the baseline",
        )


def _describe(baseline: Path, stored: StoredBaseline | None) -> dict[str, JSON]:
    if stored is None:
        return {"file": baseline.name, "sha256": content_hash(baseline), "stored": False}
    return {"file": stored.file, "sha256": stored.sha256, "stored": True}


def _notes(reference: Path | None, stored: StoredBaseline | None) -> tuple[Note, ...]:
    if stored is None:
        return ()
    if reference is not None:
        return (Note(stored.path.name, "note", f"{stored.file} lies beside it: measured again, in pairs"),)
    return (
        Note(
            stored.path.name,
            "note",
            "stored figures, related to now by a probe model: less sensitive than pairs with the reference model",
        ),
    )


def _table(checks: Sequence[Check], candidate: Path, baseline: Path) -> Table:
    rows = tuple(
        (
            check.name,
            _figure(check.measured, check.unit),
            "-" if check.low is None or check.high is None else f"{check.low:.4g} .. {check.high:.4g}",
            _figure(check.limit, check.unit),
            WORDS[check.status],
        )
        for check in checks
    )
    return Table(
        f"{candidate.name} against {baseline.name}", ("check", "measured", "interval", "limit", "result"), rows
    )


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.4g} {unit}".rstrip()
