"""``bench``: latency of models on the target; with several, each is compared with the first in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxopt.commands.common import Source, as_json, data_notes, first_feeds, latency_table, open_data, open_model
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.profile_tables import profile_models
from onnxopt.core.io import data_files
from onnxopt.core.progress import Progress
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.errors import UsageError
from onnxopt.measurement.env import environment
from onnxopt.measurement.measure import Measurement, measure
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.run.target import Target

__all__ = ["bench"]


def bench(
    models: Sequence[Path],
    source: Source | None = None,
    *,
    target: Target | None = None,
    with_profile: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Latency, memory and start of each model, and for all but the first the paired ratio to the first.

    With ``with_profile`` also where the time goes, by node, and by region against the first.

    Raises:
        UsageError: There is no model.
        OnnxoptError: A model or the data cannot be used.
    """
    if not models:
        raise UsageError("there is no model to measure", where="bench", fix="name at least one .onnx file")
    source, target = source or Source(), target or Target()
    opened = [open_model(path, target) for path in models]
    samples = open_data(source, models[0], opened[0], target)
    feeds = first_feeds(samples)
    single: dict[str, Measurement] = {}
    titles = _titles(models)
    for name, path in titles.items():
        single[name] = measure(path, feeds, target, seed=source.seed, progress=progress)
    pairs: dict[str, LatencyComparison] = {}
    for name, path in list(titles.items())[1:]:
        pairs[name] = compare_latency(models[0], path, feeds, target, seed=source.seed, progress=progress)
    block = environment(target)
    data: dict[str, JSON] = {
        "environment": block,
        "models": {name: as_json(m) for name, m in single.items()},
        "comparisons": {name: as_json(c) for name, c in pairs.items()},
    }
    tables = [_models_table(single, titles)]
    if pairs:
        tables.append(latency_table(pairs, f"Against {models[0].name}, interleaved in fresh processes"))
    notes = _missing(single) + data_notes(samples)
    if with_profile:
        profiled = profile_models(titles, feeds, target, progress=progress)
        tables, notes, data = [*tables, *profiled.tables], notes + profiled.notes, {**data, **profiled.data}
    tables.append(Table("Environment", ("", ""), tuple((key, _text(value)) for key, value in block.items())))
    report = Report("bench", _verdict(models, single, pairs), data, tuple(tables), notes)
    return with_fallback(report, titles, feeds, target)


def _titles(models: Sequence[Path]) -> dict[str, Path]:
    """File names where they tell the models apart, else paths as given, else numbered."""
    for titles in ([p.name for p in models], [str(p) for p in models]):
        if len(set(titles)) == len(models):
            return dict(zip(titles, models, strict=True))
    return {f"{i}: {p.name}": p for i, p in enumerate(models)}


def _models_table(single: dict[str, Measurement], titles: dict[str, Path]) -> Table:
    rows = tuple(
        (
            name,
            m.p50_ms,
            m.p90_ms,
            m.p99_ms,
            m.throughput,
            m.load_ms,
            m.first_run_ms,
            m.peak_rss_mb,
            sum(f.stat().st_size for f in data_files(titles[name])) / 1e6,
            m.n,
        )
        for name, m in single.items()
    )
    columns = ("model", "p50 ms", "p90 ms", "p99 ms", "samples/s", "load ms", "first run ms", "peak MiB", "MB", "runs")
    return Table("Latency", columns, rows)


def _verdict(models: Sequence[Path], single: dict[str, Measurement], pairs: dict[str, LatencyComparison]) -> Verdict:
    if not pairs:
        only = next(iter(single.values()))
        return Verdict(Status.PASS, f"{models[0].name}: p50 {only.p50_ms:.4g} ms over {only.n} runs")
    parts = [
        f"{name} is {c.decision} ({1 / c.ratio:.2f}x, ratio {c.low:.3f} .. {c.high:.3f})"
        if c.decision != "inconclusive"
        else f"{name} is undecided (ratio {c.low:.3f} .. {c.high:.3f}; too noisy)"
        for name, c in pairs.items()
    ]
    undecided = any(c.decision == "inconclusive" for c in pairs.values())
    return Verdict(Status.INCONCLUSIVE if undecided else Status.PASS, f"against {models[0].name}: " + "; ".join(parts))


def _missing(single: dict[str, Measurement]) -> tuple[Note, ...]:
    notes: list[Note] = []
    for name, m in single.items():
        if m.p90_ms is None:
            notes.append(Note(name, "left out", f"a p90 needs 64 runs, there were {m.n}"))
        if m.p99_ms is None:
            notes.append(Note(name, "left out", f"a p99 needs 662 runs, there were {m.n}"))
    return tuple(notes)


def _text(value: JSON) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)
