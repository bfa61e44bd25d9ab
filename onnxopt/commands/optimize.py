"""``optimize``: clean-ups and folds that leave the outputs as they are, written only when not measured slower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxopt.commands.common import (
    Source,
    as_json,
    check_output,
    data_notes,
    first_feeds,
    latency_table,
    open_data,
    open_model,
    size_table,
    workspace,
)
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.provenance import stamp
from onnxopt.core.io import save
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import Model, nodes
from onnxopt.core.report import Note, Report, Status, Table, Verdict
from onnxopt.errors import UsageError
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, SAMPLES, Record, run
from onnxopt.passes.registry import OPTIMIZE, create, names, summary
from onnxopt.run.settings import NO_SETTINGS, read_settings, write_settings
from onnxopt.run.target import Target

__all__ = ["list_passes", "optimize"]


def optimize(
    path: Path,
    output: Path,
    source: Source | None = None,
    *,
    passes: Sequence[str] | None = None,
    target: Target | None = None,
    keep_failing: bool = False,
    accept_inconclusive: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Runs graph passes, verifies the result against the input on the data, measures both, writes it if not slower.

    Args:
        path: The model; it is not changed.
        output: Where the result goes.
        source: Data to verify and to measure on; without, inputs are made up from the shapes.
        passes: Names of the passes, in order; default: all, repeated until nothing changes.
        target: Where the model is to run.
        keep_failing: Write the result even when it is slower.
        accept_inconclusive: Write the result when the measurement was too noisy to decide.
        progress: Told of each pass and process.

    Raises:
        UsageError: Unknown pass, or the output is the input.
        VerificationError: A pass broke the model; the message names it.
        OnnxoptError: The model or the data cannot be used, or the output cannot be written.
    """
    if passes is not None and not passes:
        raise UsageError("there is no pass to run", where="--passes", fix="name passes of `onnxopt optimize --list`")
    chosen = [create(name) for name in (OPTIMIZE if passes is None else passes)]
    source, target, progress = source or Source(), target or Target(), progress or SilentProgress()
    model = open_model(path, target)
    final = check_output(output, path, source.path, source.preprocess)
    data = open_data(source, path, model, target)
    with workspace() as folder:
        ctx = Context(folder, data, target, source.seed, progress)
        result, records = run(model, chosen, ctx, reference=path, rounds=1 if passes else ROUNDS)
        changes = {record.name: record.changes for record in records if record.changes}
        if not changes:
            reason = f"no pass found anything to change in {path.name}; nothing is written"
            return Report("optimize", Verdict(Status.UNCHANGED, reason), {"changes": {}}, notes=_notes(records))
        verdict: dict[str, bool | str | int] = {"verified_samples": min(len(data), SAMPLES), "equivalent": True}
        stamp(result, path, chosen, changes=changes, verdict={**verdict}, data=data)
        candidate = folder / "optimized.onnx"
        save(result, candidate)
        settings = read_settings(path)
        write_settings(candidate, settings)
        feeds = first_feeds(data)
        latency = compare_latency(path, candidate, feeds, target, seed=source.seed, progress=progress)
        outcome = _verdict(latency, model, result)
        written = (
            outcome.status is Status.PASS
            or (outcome.status is Status.INCONCLUSIVE and accept_inconclusive)
            or keep_failing
        )
        if written:
            write_settings(final, NO_SETTINGS)
            save(result, final)
            write_settings(final, settings)
        report = Report(
            "optimize",
            outcome,
            {
                "changes": {**changes},
                "passes": [as_json(record) for record in records],
                "latency": as_json(latency),
                "written": written,
            },
            (
                _passes_table(records),
                size_table({"input": path, "output": candidate}),
                latency_table({"output": latency}, "Against the input, interleaved in fresh processes"),
            ),
            _notes(records) + data_notes(data),
        )
        return with_fallback(report, {"input": path, "output": candidate}, feeds, target)


def list_passes() -> Report:
    """The names of all passes with what each does."""
    rows = tuple((name, summary(name)) for name in names())
    verdict = Verdict(Status.PASS, f"{len(rows)} passes")
    return Report("optimize", verdict, {"passes": dict(rows)}, (Table("Passes", ("pass", "does"), rows),))


def _verdict(latency: LatencyComparison, before: Model, after: Model) -> Verdict:
    counts = f"{sum(1 for _ in nodes(before))} -> {sum(1 for _ in nodes(after))} nodes, outputs equal"
    interval = f"latency ratio {latency.ratio:.3f} ({latency.low:.3f} .. {latency.high:.3f})"
    match latency.decision:
        case "faster" | "same":
            word = "faster" if latency.decision == "faster" else "not slower"
            return Verdict(Status.PASS, f"{counts}, {word}: {interval}")
        case "slower":
            return Verdict(Status.FAIL, f"{counts}, but slower: {interval}")
        case "inconclusive":
            return Verdict(Status.INCONCLUSIVE, f"{counts}, too noisy to say that it is not slower: {interval}")


def _passes_table(records: Sequence[Record]) -> Table:
    rows = tuple((r.name, r.changes, r.seconds) for r in records)
    return Table("Passes", ("pass", "changes", "seconds"), rows)


def _notes(records: Sequence[Record]) -> tuple[Note, ...]:
    return tuple(Note(f"{r.name}: {n.node}", n.verdict, n.reason) for r in records for n in r.notes)
