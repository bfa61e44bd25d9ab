"""Judges all models of a pruning plan: rows of plain data, one entry of the zoo after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.entry import Entry
from benchmarks.judge import Feeds, Judge, Judgement
from benchmarks.made import Made, plain
from benchmarks.pruning.making import kept, model_path
from benchmarks.pruning.plan import Method
from onnxopt.core.cost import cost
from onnxopt.core.io import load
from onnxopt.core.progress import Progress
from onnxopt.core.shapes import static_shapes
from onnxopt.errors import OnnxoptError

PEER_PROCESSES = (3, 5)


def judge_all(plan: Sequence[tuple[Entry, Method]], progress: Progress) -> list[dict[str, Any]]:
    """Return, for each entry, what it costs and a row for each method."""
    entries: list[dict[str, Any]] = []
    with progress.task("judging models", len(plan)) as advance:
        for entry in dict.fromkeys(entry for entry, _ in plan):
            judge = Judge(entry)
            whole = price(entry.model, judge.feeds)
            rows: list[dict[str, Any]] = []
            for method in (m for e, m in plan if e == entry):
                rows.append(_row(judge, entry, method, whole))
                progress.note(f"{entry.id} {method.name}: {_line(rows[-1])}")
                advance(1)
            inputs = {name: list(array.shape) for name, array in judge.feeds.items()}
            entries.append(
                {"id": entry.id, "metric": entry.metric, "latency_inputs": inputs, "cost": whole, "rows": rows}
            )
    return entries


def price(path: Path, feeds: Feeds) -> dict[str, int]:
    """Return the parameters and the multiplications of one call with `feeds`."""
    model = load(path)
    found = cost(model, static_shapes(model, {name: array.shape for name, array in feeds.items()}))
    return {"params": found.params, "macs": found.total_macs}


def _row(judge: Judge, entry: Entry, method: Method, whole: Mapping[str, int]) -> dict[str, Any]:
    made, path = kept(entry, method), model_path(entry, method)
    judgement: Judgement | None = None
    shares: dict[str, float] = {}
    error = "" if made is not None else "not made: python -m benchmarks.prune make"
    if made is not None and made.status == "written":
        try:
            judgement = judge.judge(path) if method.peer is None else judge.judge(path, PEER_PROCESSES)
            shares = {kind: count / whole[kind] for kind, count in price(path, judge.feeds).items()}
        except OnnxoptError as failure:
            error = plain(str(failure), entry.model.parent, path.parent)
    return {
        "method": method.name,
        "peer": method.peer,
        "goal": asdict(method.goal),
        "made": None if made is None else asdict(made),
        "judgement": None if judgement is None else judgement.as_json(),
        "shares": shares,
        "error": error or _reason(made, judgement),
    }


def _reason(made: Made | None, judgement: Judgement | None) -> str:
    return made.reason if made is not None and judgement is None else ""


def _line(row: Mapping[str, Any]) -> str:
    judged = row["judgement"]
    if judged is None:
        return row["error"]
    comparison, shares = judged["comparison"], row["shares"]
    score = f"{comparison['candidate_score']:.3f} of {comparison['reference_score']:.3f}"
    counted = f"MACs {shares['macs']:.3f}, parameters {shares['params']:.3f}"
    return f"{score}, {counted}, latency {judged['latency']['ratio']:.3f}"
