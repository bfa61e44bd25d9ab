"""What ``merge`` says: the verdict, the members beside the ensemble, the time against separate sessions."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.commands.common import as_json, data_notes, latency_table, size_table
from onnxopt.core.report import JSON, Cell, Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.measurement.paired import LatencyComparison
from onnxopt.merging.align import Alignment
from onnxopt.merging.calls import Calls
from onnxopt.merging.ensemble import Ensemble
from onnxopt.merging.judge import Judgement
from onnxopt.merging.strategies import Soup

__all__ = ["merge_report"]


def merge_report(
    alignment: Alignment,
    ensemble: Ensemble,
    latency: LatencyComparison,
    data: Dataset,
    calls: Calls,
    notes: Sequence[Note],
    *,
    force: bool,
    is_file: bool,
) -> Report:
    """The report of one merge; ``data["written"]`` says whether the result is to be written (to a file if at all)."""
    outcome = _verdict(ensemble, latency, force=force)
    judged = ensemble.judgement
    titles = [member.title for member in alignment.members]
    document: dict[str, JSON] = {
        "strategy": ensemble.strategy.name,
        "members": list(titles),
        "kept": [titles[k] for k in ensemble.keep],
        "fit": ensemble.facts,
        "judgement": None if judged is None else as_json(judged),
        "difference": as_json(ensemble.difference),
        "shared": as_json(ensemble.shared),
        "fusion": None if ensemble.fusion is None else as_json(ensemble.fusion),
        "latency": as_json(latency),
        "items": calls.items,
        "synthetic": data.synthetic,
        "written": outcome.status is Status.PASS and is_file,
    }
    tables = (
        *([_members_table(titles, ensemble, judged)] if judged is not None else _weights_table(titles, ensemble)),
        size_table({**{t: m.path for t, m in zip(titles, alignment.members, strict=True)}, "ensemble": ensemble.path}),
        latency_table(
            {"ensemble": latency}, f"Against {len(titles)} separate sessions, interleaved in fresh processes"
        ),
        *(
            [latency_table({"side by side": ensemble.fusion.latency}, "Against members one after the other")]
            if ensemble.fusion
            else []
        ),
    )
    said = (
        *notes,
        *alignment.notes,
        *ensemble.notes,
        *_shared_notes(ensemble),
        *_judging_notes(ensemble),
        *data_notes(data),
    )
    return Report("merge", outcome, document, tables, said)


def _verdict(ensemble: Ensemble, latency: LatencyComparison, *, force: bool) -> Verdict:
    parts = [f"{ensemble.strategy.name} of {len(ensemble.keep)}"]
    judged, is_soup = ensemble.judgement, isinstance(ensemble.strategy, Soup)
    fails = ""
    if judged is not None:
        parts.append(f"{judged.metric} {judged.ensemble:.4g} against {judged.best:.4g} of the best member")
        if is_soup and len(ensemble.keep) == 1:
            fails = "no soup is better than the best member alone"
        elif not (judged.is_not_worse if is_soup else judged.is_better):
            fails = f"the ensemble is not {'as good as' if is_soup else 'better than'} its best member"
    if not is_soup:
        parts.append(f"equal to separate sessions within {ensemble.difference.max_abs:.2g}")
    interval = f"ratio {latency.low:.3f} .. {latency.high:.3f}"
    parts.append(f"{1 / latency.ratio:.2f}x as fast as separate sessions ({interval})")
    text = ", ".join(parts)
    if latency.decision == "slower":
        fails = "; ".join(filter(None, (fails, "one file is slower than separate sessions")))
    if fails and not force:
        return Verdict(Status.FAIL, f"{fails}: {text}; nothing is written (--force writes it)")
    return Verdict(Status.PASS, f"{text}{f'; written by --force although {fails}' if fails else ''}")


def _members_table(titles: Sequence[str], ensemble: Ensemble, judged: Judgement) -> Table:
    shares = _weights(ensemble, len(titles))
    rows: list[tuple[Cell, ...]] = [
        (title, score, share) for title, score, share in zip(titles, judged.members, shares, strict=True)
    ]
    rows.append(("best, chosen without these items", judged.best, None))
    rows.append(("ensemble", judged.ensemble, None))
    return Table(f"On {judged.items} held-back items ({judged.way})", ("model", judged.metric, "weight"), tuple(rows))


def _weights_table(titles: Sequence[str], ensemble: Ensemble) -> list[Table]:
    rows = tuple(zip(titles, _weights(ensemble, len(titles)), strict=True))
    return [Table("Members", ("model", "weight"), rows)]


def _weights(ensemble: Ensemble, count: int) -> list[Cell]:
    found = ensemble.facts.get("weights")
    if isinstance(found, list):
        return [float(w) if isinstance(w, int | float) else None for w in found]
    return [1 / len(ensemble.keep) if k in ensemble.keep else 0.0 for k in range(count)]


def _shared_notes(ensemble: Ensemble) -> list[Note]:
    shared = ensemble.shared
    if not (shared.nodes or shared.weights):
        return []
    text = f"{shared.nodes} nodes are computed once, {shared.weights} weights ({shared.bytes:,} bytes) stored once"
    return [Note("shared work", "merged", text)]


def _judging_notes(ensemble: Ensemble) -> list[Note]:
    judged = ensemble.judgement
    if judged is None:
        text = "there are no labels: whether the ensemble beats its best member is not known"
        return [Note("accuracy", "not judged", text)]
    if judged.bound is None:
        return []
    sign = "better by at least" if judged.bound < 0 else "at most worse by"
    return [Note("accuracy", "bound", f"with 95 % confidence {sign} {abs(judged.bound):.3g} than the best member")]
