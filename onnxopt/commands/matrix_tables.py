"""The tables of ``bench``: latency, start and memory, comparisons, and what could not be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxopt.commands.matrix import Configuration, Entry, Pair, Row
from onnxopt.core.report import Cell, Table
from onnxopt.errors import OnnxoptError
from onnxopt.measurement.measure import Measurement
from onnxopt.measurement.paired import LatencyComparison
from onnxopt.measurement.stats import SAMPLES_FOR
from onnxopt.run.target import provider

__all__ = ["matrix_tables"]

Line = tuple[dict[str, Cell], dict[str, Cell]]
"""What tells a row apart (column -> cell), and its figures."""


def matrix_tables(
    rows: Sequence[Row], pairs: Sequence[Pair], precisions: Mapping[str, str], sizes: Mapping[str, int]
) -> tuple[Table, ...]:
    """All tables that have at least one row.

    Args:
        rows: Models in their configurations.
        pairs: Comparisons with the first model.
        precisions: Of each model, by title.
        sizes: Bytes on disk of each model, by title.
    """
    done = [(row, row.outcome) for row in rows if isinstance(row.outcome, Measurement)]
    found: list[Table] = []
    if done:
        keys = [_key(r.entry, r.configuration, m) for r, m in done]
        kinds = [{"precision": precisions[r.entry.title], "scenario": m.scenario} for r, m in done]
        lines = [({**k, **kind}, _latency(m)) for k, kind, (_, m) in zip(keys, kinds, done, strict=True)]
        found.append(_table("Latency", lines))
        has_device = any(m.device_mb is not None for _, m in done)
        costs = [_cost(m, sizes[r.entry.title], has_device) for r, m in done]
        found.append(_table("Start, copies, memory", list(zip(keys, costs, strict=True))))
    compared = [(p, p.outcome) for p in pairs if isinstance(p.outcome, LatencyComparison)]
    if compared:
        lines = [(_key(p.entry, p.configuration), _ratio(c)) for p, c in compared]
        title = f"Against {compared[0][0].reference.title}, interleaved in fresh processes, one call after the other"
        found.append(_table(title, lines))
    failed = [item for item in (*rows, *pairs) if isinstance(item.outcome, OnnxoptError)]
    if failed:
        found.append(Table("Not measured", ("", "what happened", "where", "what to do"), tuple(map(_failure, failed))))
    return tuple(found)


def _key(entry: Entry, configuration: Configuration, found: Measurement | None = None) -> dict[str, Cell]:
    batch: Cell = configuration.batch
    if batch is None and found is not None:
        batch = int(found.batch_size) if found.batch_size.is_integer() else f"{found.batch_size:.4g} (mean)"
    return {
        "model": entry.title,
        "provider": provider(configuration.target.provider).short,
        "batch": batch,
        "threads": configuration.target.threads,
    }


def _latency(found: Measurement) -> dict[str, Cell]:
    served: dict[str, Cell] = {}
    if found.rate is not None:
        served = {
            "asked/s": found.rate,
            "answered/s": found.throughput / found.batch_size,
            "utilization": found.utilization,
        }
    return {
        **served,
        "p50 ms": found.p50_ms,
        "p90 ms": _tail(found.p90_ms, 90, found.n),
        "p99 ms": _tail(found.p99_ms, 99, found.n),
        "samples/s": found.throughput,
        "runs": found.n,
    }


def _tail(value: float | None, q: int, count: int) -> Cell:
    return f"needs {SAMPLES_FOR[q]}, had {count}" if value is None else value


def _cost(found: Measurement, size_bytes: int, has_device: bool) -> dict[str, Cell]:
    device: dict[str, Cell] = {"device MiB": found.device_mb} if has_device else {}
    return {
        "load ms": found.load_ms,
        "first run ms": found.first_run_ms,
        "copy ms": found.copy_ms,
        "peak MiB": found.peak_rss_mb,
        **device,
        "MB on disk": size_bytes / 1e6,
    }


def _ratio(found: LatencyComparison) -> dict[str, Cell]:
    return {
        "p50 ms": f"{found.reference.p50_ms:.4g} -> {found.candidate.p50_ms:.4g}",
        "speed-up": f"{1 / found.ratio:.2f}x",
        "ratio (90 %)": f"{found.ratio:.3f} ({found.low:.3f} .. {found.high:.3f})",
        "detectable": f"{100 * found.mde:.2g} %",
        "decision": found.decision,
        "processes": found.processes,
    }


def _failure(item: Row | Pair) -> tuple[Cell, ...]:
    error = item.outcome
    said = (error.what, error.where, error.fix) if isinstance(error, OnnxoptError) else ("", "", "")
    return (f"{item.entry.title}: {item.configuration}", *said)


def _table(title: str, lines: Sequence[Line]) -> Table:
    """A table; what is the same in all rows moves to its title, but for the model."""
    keys = [key for key, _ in lines]
    same = [name for name in keys[0] if name != "model" and len({key[name] for key in keys}) == 1]
    shown = [name for name in keys[0] if name not in same]
    figures = list(lines[0][1])
    common = ", ".join(_said(name, keys[0][name]) for name in same if keys[0][name] is not None)
    return Table(
        f"{title} ({common})" if common else title,
        (*shown, *figures),
        tuple(_cells(key, shown) + _cells(line, figures) for key, line in lines),
    )


def _cells(values: Mapping[str, Cell], names: Iterable[str]) -> tuple[Cell, ...]:
    return tuple(values[name] for name in names)


def _said(name: str, value: Cell) -> str:
    return f"{name} {value}" if name in ("batch", "threads") else str(value)
