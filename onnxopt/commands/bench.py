"""``bench``: latency of models in every configuration; with several, each is compared with the first in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from onnxopt.commands.baseline import describe_specs
from onnxopt.commands.common import Source, as_json, data_notes, open_data, workspace
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.matrix import Entry, Matrix, Pair, Row, calls, measured
from onnxopt.commands.matrix_tables import matrix_tables
from onnxopt.commands.matrix_verdict import is_overloaded, verdict
from onnxopt.commands.merge import open_members
from onnxopt.commands.profile_tables import Profiling, profile_models
from onnxopt.core.io import content_hash, data_files, load
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import output_specs
from onnxopt.core.report import JSON, Interrupted, Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.errors import ModelError, OnnxoptError, ProviderError, UsageError
from onnxopt.measurement.env import environment
from onnxopt.measurement.job import Load
from onnxopt.measurement.measure import MEASURED_RUNS, MEASURED_SECONDS, Measurement
from onnxopt.merging.align import align_inputs
from onnxopt.merging.separate import separate_files
from onnxopt.quantization.precision import precision
from onnxopt.run.target import Target

__all__ = ["bench"]

OF_A_ROW = ("provider", "threads", "spinning")
"""What the environment says of one target only."""


def bench(
    models: Sequence[Path],
    source: Source | None = None,
    *,
    members: Sequence[Path] = (),
    target: Target | None = None,
    providers: Sequence[str] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    load: Load | None = None,
    seconds: float = MEASURED_SECONDS,
    runs: int = MEASURED_RUNS,
    with_profile: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Latency, memory and start of each model in each configuration, and the paired ratio of all others to the first.

    What cannot be measured becomes a row that says why, and the others are measured.

    Args:
        models: Model files.
        members: Models that are run one after the other in separate sessions: the first row, and what all others are
            compared with.
        source: The data; without, inputs are made up from the shapes of the first model.
        target: Options of the provider, and what the lists below leave out.
        providers: Execution providers.
        batches: Samples of one call, built from the data; empty: the data as they are.
        threads: Intra-op threads.
        load: Queries at the same time (Offline) or their Poisson arrivals (Server); default: one after the other.
        seconds: Longest time of timed runs in each of the processes of a row.
        runs: Timed runs of a row that are enough.
        with_profile: Also where the time goes in the first configuration, by node, and by region against the first.
        progress: Told of each process.

    Returns:
        A report whose ``data`` is a baseline: ``environment``; ``models`` by title: ``file``, ``sha256``, ``bytes``,
        ``precision``, ``inputs`` and ``outputs`` as ``[name, dtype, shape]``; ``rows`` and ``comparisons``, each with
        ``model``, ``provider``, ``threads``, ``batch`` (null: the data as they are), its figures or null, and its
        ``error`` or null; a row also has the ``anchor`` that a gate needs, of a model that is measured alone;
        ``data``: ``fingerprint``, ``synthetic``, ``samples``.

    Raises:
        UsageError: There is no model, or an option has no meaning.
        Interrupted: Ctrl-C or SIGTERM, with the report on the rows that are complete.
        OnnxoptError: A model file or the data cannot be used, or no row could be measured, all for the same reason.
    """
    if not models:
        raise UsageError("there is no model to measure", where="bench", fix="name at least one .onnx file")
    source = source or Source()
    matrix = Matrix.over(
        target or Target(),
        providers,
        batches,
        threads,
        load=load or Load(),
        seconds=seconds,
        runs=runs,
        seed=source.seed,
    )
    with workspace() as folder:
        entries = (*_separate(members, target or Target(), folder), *Entry.of(models))
        return _bench(entries, matrix, source, with_profile=with_profile, progress=progress or SilentProgress())


def _separate(members: Sequence[Path], target: Target, folder: Path) -> tuple[Entry, ...]:
    """The members as one row; files in ``folder`` where they name their inputs differently.

    Raises:
        OnnxoptError: A member cannot be used, or does not fit the others.
    """
    if not members:
        return ()
    found, _ = open_members(members, (), target)
    first, *further = separate_files(align_inputs(found), folder)
    return (Entry(f"{len(members)} separate sessions", first, load(first), tuple(further)),)


def _bench(
    entries: Sequence[Entry], matrix: Matrix, source: Source, *, with_profile: bool, progress: Progress
) -> Report:
    data = _open(source, entries[0], matrix)
    rows: list[Row] = []
    pairs: list[Pair] = []
    profiled = Profiling({}, (), ())
    try:
        for found in measured(entries, matrix, data, progress):
            if isinstance(found, Row):
                rows.append(found)
            else:
                pairs.append(found)
        if with_profile:
            profiled = _profile(entries, matrix, data, progress)
    except KeyboardInterrupt as stop:
        report = _report(entries, matrix, data, rows, pairs, profiled)
        done = f"interrupted after {len(rows)} of {len(entries) * len(matrix.configurations)} rows"
        reason = "; ".join(filter(None, (done, report.verdict.reason)))
        raise Interrupted(replace(report, verdict=Verdict(Status.INTERRUPTED, reason))) from stop
    errors = {row.outcome.args: row.outcome for row in rows if isinstance(row.outcome, OnnxoptError)}
    if len(errors) == 1 and all(isinstance(row.outcome, OnnxoptError) for row in rows):
        raise next(iter(errors.values()))
    report = _report(entries, matrix, data, rows, pairs, profiled)
    places = {c.target.provider: c for c in matrix.configurations}
    for provider, configuration in places.items():
        ran = [r.entry for r in rows if r.configuration == configuration and isinstance(r.outcome, Measurement)]
        titles = {entry.title + (f" on {provider}" if len(places) > 1 else ""): entry.path for entry in ran}
        if titles:
            report = with_fallback(report, titles, calls(ran[0], configuration, data), configuration.target)
    return report


def _open(source: Source, entry: Entry, matrix: Matrix) -> Dataset:
    """The data; inputs that must be made up are tried on the first provider that has the model running.

    Raises:
        OnnxoptError: The data do not fit, or the model runs nowhere.
    """
    refusals: list[OnnxoptError] = []
    for target in {c.target.provider: c.target for c in matrix.configurations}.values():
        try:
            return open_data(source, entry.path, entry.model, target)
        except (ModelError, ProviderError) as error:
            refusals.append(error)
    raise refusals[0]


def _profile(entries: Sequence[Entry], matrix: Matrix, data: Dataset, progress: Progress) -> Profiling:
    """Profiles in the first configuration; a note where the first model cannot be profiled."""
    first = matrix.configurations[0]
    try:
        feeds = calls(entries[0], first, data)
        return profile_models({entry.title: entry.path for entry in entries}, feeds, first.target, progress=progress)
    except OnnxoptError as error:
        return Profiling({}, (), (Note(entries[0].title, "not profiled", error.what),))


def _report(
    entries: Sequence[Entry],
    matrix: Matrix,
    data: Dataset,
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    profiled: Profiling,
) -> Report:
    block = environment(matrix.configurations[0].target)
    precisions = {entry.title: precision(entry.model) for entry in entries}
    sizes = {e.title: sum(f.stat().st_size for p in e.files for f in data_files(p)) for e in entries}
    document: dict[str, JSON] = {
        "environment": block,
        "models": {
            entry.title: {
                "file": entry.path.name,
                "sha256": content_hash(entry.path),
                "bytes": sizes[entry.title],
                "precision": precisions[entry.title],
                "inputs": describe_specs(entry.specs),
                "outputs": describe_specs(output_specs(entry.model)),
            }
            for entry in entries
        },
        "rows": [{**_place(row), "precision": precisions[row.entry.title], **_figures(row)} for row in rows],
        "comparisons": [{**_place(pair), "reference": pair.reference.title, **_ratios(pair)} for pair in pairs],
        "data": {"fingerprint": data.fingerprint(), "synthetic": data.synthetic, "samples": len(data)},
        **profiled.data,
    }
    shown = [(key, _text(value)) for key, value in block.items() if key not in OF_A_ROW]
    tables = (
        *matrix_tables(rows, pairs, precisions, sizes),
        *profiled.tables,
        Table("Environment", ("", ""), tuple(shown)),
    )
    notes = (*_overloads(rows), *_noise(rows), *data_notes(data), *profiled.notes)
    return Report("bench", verdict(rows, pairs), document, tables, notes)


def _place(item: Row | Pair) -> dict[str, JSON]:
    target = item.configuration.target
    return {
        "model": item.entry.title,
        "provider": target.provider,
        "threads": target.threads,
        "batch": item.configuration.batch,
    }


def _figures(row: Row) -> dict[str, JSON]:
    if isinstance(row.outcome, OnnxoptError):
        return {"measurement": None, "error": _error(row.outcome), "anchor": None}
    figures = asdict(row.outcome)
    del figures["times_ms"]
    return {"measurement": figures, "error": None, "anchor": None if row.anchor is None else as_json(row.anchor)}


def _ratios(pair: Pair) -> dict[str, JSON]:
    if isinstance(pair.outcome, OnnxoptError):
        return {"latency": None, "error": _error(pair.outcome)}
    return {"latency": as_json(pair.outcome), "error": None}


def _error(error: OnnxoptError) -> dict[str, JSON]:
    return {"what": error.what, "where": error.where, "fix": error.fix}


def _overloads(rows: Sequence[Row]) -> list[Note]:
    reason = "queries wait longer and longer: the latencies depend on how long was measured, not on the model alone"
    return [
        Note(f"{row.entry.title} ({row.configuration})", "overloaded", reason)
        for row in rows
        if isinstance(row.outcome, Measurement) and is_overloaded(row.outcome)
    ]


def _noise(rows: Sequence[Row]) -> list[Note]:
    reason = "two sessions of this same model differ by {:.2g} % (standard deviation over processes)"
    return [
        Note(row.entry.title, "noise floor", reason.format(100 * row.anchor.spread))
        for row in rows
        if row.anchor is not None
    ]


def _text(value: JSON) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)
