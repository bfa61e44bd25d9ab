"""The part of a report that says where the time goes: by operator, by node, and by region against another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.core.io import load
from onnxopt.core.progress import Progress
from onnxopt.core.report import JSON, Cell, Note, Table
from onnxopt.errors import OnnxoptError
from onnxopt.measurement.profile import NodeTime, Profile, profile
from onnxopt.measurement.regions import RegionTime, compare_profiles
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["Profiling", "profile_models"]

SHOWN = 15
RUNTIME = "(runtime)"
OPS_NAMED = 3


@dataclass(frozen=True)
class Profiling:
    """What profiling adds to a report.

    Attributes:
        data: ``"profiles"`` by title, and ``"regions"`` of every further model against the first.
        tables: The first model by operator and by node; the others by region.
        notes: What to know before reading them.
    """

    data: Mapping[str, JSON]
    tables: tuple[Table, ...]
    notes: tuple[Note, ...]


def profile_models(
    models: Mapping[str, Path], feeds: Sequence[Feeds], target: Target, *, progress: Progress | None = None
) -> Profiling:
    """Profiles of models by title, the first of which is the reference of the others.

    Raises:
        OnnxoptError: The first cannot be profiled, as for ``profile``; of another it is a note.
    """
    first, *further = models
    profiles = {first: profile(models[first], feeds, target, progress=progress)}
    failed: list[Note] = []
    for title in further:
        try:
            profiles[title] = profile(models[title], feeds, target, progress=progress)
        except OnnxoptError as error:  # the others are worth having
            failed.append(Note(title, "not profiled", error.what))
    others = list(profiles)[1:]
    tables = [_op_table(first, profiles[first]), _node_table(first, profiles[first])]
    regions: dict[str, tuple[RegionTime, ...]] = {}
    reference = load(models[first])
    for title in others:
        regions[title] = compare_profiles(profiles[first], profiles[title], reference, load(models[title]))
        tables.append(_region_table(first, title, regions[title]))
    data: dict[str, JSON] = {"profiles": {title: _profile_data(p) for title, p in profiles.items()}}
    if others:
        data["regions"] = {title: [_region_data(r) for r in found] for title, found in regions.items()}
    notes = [note for title, found in profiles.items() for note in _notes(title, found)]
    return Profiling(data, tuple(tables), (*notes, *failed))


def _op_table(title: str, found: Profile) -> Table:
    sums: dict[str, list[float]] = {}
    for t in found.times:
        sums.setdefault(t.op, []).append(t.time_ms)
    ranked = sorted(sums.items(), key=lambda item: -sum(item[1]))
    rows = [_op_row(op, times, found) for op, times in ranked[:SHOWN]]
    rest = [ms for _, times in ranked[SHOWN:] for ms in times]
    if rest:
        rows.append(_op_row(f"{len(ranked) - SHOWN} others", rest, found))
    rows.append(_op_row("total", [t.time_ms for t in found.times], found))
    return Table(f"Kernels of {title}", ("kernel", "count", "ms a run", "share"), tuple(rows))


def _op_row(name: str, times: Sequence[float], found: Profile) -> tuple[Cell, ...]:
    return name, len(times), sum(times), _share(sum(times), found)


def _node_table(title: str, found: Profile) -> Table:
    ranked = sorted(found.times, key=lambda t: -t.time_ms)
    rows: list[tuple[Cell, ...]] = [
        (_named(t), t.op, t.provider.removesuffix("ExecutionProvider"), t.time_ms, _share(t.time_ms, found))
        for t in ranked[:SHOWN]
    ]
    rest = sum(t.time_ms for t in ranked[SHOWN:])
    if len(ranked) > SHOWN:
        rows.append((f"{len(ranked) - SHOWN} others", "", "", rest, _share(rest, found)))
    return Table(f"Nodes of {title}", ("node", "kernel", "provider", "ms a run", "share"), tuple(rows))


def _region_table(first: str, title: str, regions: Sequence[RegionTime]) -> Table:
    large = sorted(regions, key=lambda r: -abs(r.loss_ms))[:SHOWN]
    rows = [_region_row(", ".join(r.nodes[:2]) + _more(r.nodes, 2), [r]) for r in regions if r in large]
    rest = [r for r in regions if r not in large]
    if rest:
        rows.append(_region_row(f"{len(rest)} others", rest))
    rows.append(_region_row("total", regions))
    columns = ("region", "kernels", f"ms {first}", f"ms {title}", "difference", "ratio")
    return Table(f"{title} against {first} by region, losses first", columns, tuple(rows))


def _region_row(name: str, regions: Sequence[RegionTime]) -> tuple[Cell, ...]:
    before, after = sum(r.reference_ms for r in regions), sum(r.candidate_ms for r in regions)
    kernels = f"{_ops(regions[0].reference_ops)} -> {_ops(regions[0].candidate_ops)}" if len(regions) == 1 else ""
    return name, kernels, before, after, after - before, after / before if before else None


def _ops(names: Sequence[str]) -> str:
    return ", ".join(names[:OPS_NAMED]) + _more(names, OPS_NAMED) if names else "nothing"


def _more(names: Sequence[str], shown: int) -> str:
    return f" + {len(names) - shown}" if len(names) > shown else ""


def _named(t: NodeTime) -> str:
    return t.nodes[0] + _more(t.nodes, 1) if t.nodes else RUNTIME


def _share(ms: float, found: Profile) -> str:
    return f"{ms / (found.total_ms or 1.0):.1%}"


def _notes(title: str, found: Profile) -> list[Note]:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found.provider_shares.items())
    behind = f"{found.attributed_share:.1%} of the time is behind nodes of the file"
    text = f"median of {found.runs} profiled runs; {behind}; it ran on {shares}"
    return [Note(title, "profile", text), *(Note(title, "profile", note) for note in found.notes)]


def _profile_data(found: Profile) -> JSON:
    return {
        "total_ms": found.total_ms,
        "run_ms": found.run_ms,
        "runs": found.runs,
        "attributed_share": found.attributed_share,
        "provider_shares": dict(found.provider_shares),
        "kernels": [
            {"nodes": list(t.nodes), "op": t.op, "name": t.name, "time_ms": t.time_ms, "provider": t.provider}
            for t in found.times
        ],
    }


def _region_data(found: RegionTime) -> JSON:
    return {
        "nodes": list(found.nodes),
        "reference_ops": list(found.reference_ops),
        "candidate_ops": list(found.candidate_ops),
        "reference_ms": found.reference_ms,
        "candidate_ms": found.candidate_ms,
        "loss_ms": found.loss_ms,
        "ratio": found.ratio,
    }
