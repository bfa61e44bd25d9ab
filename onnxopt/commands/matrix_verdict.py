"""What the rows and comparisons of ``bench`` come to, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.commands.matrix import Pair, Row
from onnxopt.core.report import Status, Verdict
from onnxopt.errors import OnnxoptError
from onnxopt.measurement.measure import Measurement
from onnxopt.measurement.paired import LatencyComparison

__all__ = ["is_overloaded", "verdict"]

MOST_UTILIZED = 0.95


def is_overloaded(found: Measurement) -> bool:
    """Whether queries arrive about as fast as they can be answered, or faster, so that the queue only grows."""
    return found.utilization is not None and found.utilization > MOST_UTILIZED


def verdict(rows: Sequence[Row], pairs: Sequence[Pair]) -> Verdict:
    """An error where something could not be measured, else a failure where a model does not keep up with the rate.

    Else undecided where a comparison is, else passed.
    """
    failed = [row for row in rows if isinstance(row.outcome, OnnxoptError)]
    reached = {row.entry.title for row in failed}
    broken = [p for p in pairs if isinstance(p.outcome, OnnxoptError)]
    lost = [p for p in broken if not reached & {p.entry.title, p.reference.title}]
    swamped = [r for r in rows if isinstance(r.outcome, Measurement) and is_overloaded(r.outcome)]
    measured = [(row, row.outcome) for row in rows if isinstance(row.outcome, Measurement) and row not in swamped]
    compared = [(pair, pair.outcome) for pair in pairs if isinstance(pair.outcome, LatencyComparison)]
    parts = [
        *_failures(failed, f"of {len(rows)} rows not measured"),
        *_failures(lost, f"of {len(pairs)} comparisons failed"),
        *(_overload(row) for row in swamped),
        *(_comparisons(compared) if compared else _figures(measured)),
    ]
    undecided = any(c.decision == "inconclusive" for _, c in compared)
    status = Status.INCONCLUSIVE if undecided else Status.PASS
    if failed or broken:
        status = Status.ERROR
    elif swamped:
        status = Status.FAIL
    return Verdict(status, "; ".join(parts))


def _failures(items: Sequence[Row | Pair], how: str) -> list[str]:
    if not items:
        return []
    first = items[0]
    what = first.outcome.what if isinstance(first.outcome, OnnxoptError) else ""
    more = ", ..." if len(items) > 1 else ""
    return [f"{len(items)} {how}: {first.entry.title} ({first.configuration}): {what}{more}"]


def _overload(row: Row) -> str:
    found = row.outcome
    if not isinstance(found, Measurement) or found.rate is None:
        return ""
    answered = found.throughput / found.batch_size
    return (
        f"{row.entry.title} ({row.configuration}) does not keep up with {found.rate:g} queries/s: "
        f"it answers {answered:.4g}/s, utilization {found.utilization:.2f}"
    )


def _figures(measured: Sequence[tuple[Row, Measurement]]) -> list[str]:
    if len(measured) <= 1:
        return [f"{row.entry.title}{_arrivals(m)}: p50 {m.p50_ms:.4g} ms over {m.n} runs" for row, m in measured]
    quick = min(measured, key=lambda item: item[1].p50_ms)
    busy = max(measured, key=lambda item: item[1].throughput)
    return [
        f"lowest p50 {quick[1].p50_ms:.4g} ms: {_label(quick[0])}",
        f"most samples {busy[1].throughput:.4g}/s: {_label(busy[0])}",
    ]


def _arrivals(found: Measurement) -> str:
    if found.rate is None or found.utilization is None:
        return ""
    return f" at {found.rate:g} queries/s (utilization {found.utilization:.2f})"


def _comparisons(compared: Sequence[tuple[Pair, LatencyComparison]]) -> list[str]:
    """One part a model and decision."""
    groups: dict[tuple[str, str], list[tuple[Pair, LatencyComparison]]] = {}
    for pair, found in compared:
        groups.setdefault((pair.entry.title, found.decision), []).append((pair, found))
    totals = {title: sum(p.entry.title == title for p, _ in compared) for title, _ in groups}
    parts = [_group(title, decision, items, totals[title]) for (title, decision), items in groups.items()]
    return [f"against {compared[0][0].reference.title}: {parts[0]}", *parts[1:]]


def _group(title: str, decision: str, items: Sequence[tuple[Pair, LatencyComparison]], total: int) -> str:
    only = items[0][1]
    said = "undecided" if decision == "inconclusive" else decision
    if len(items) == 1:
        place = f" with {items[0][0].configuration}" if total > 1 else ""
        ratio = f"ratio {only.low:.3f} .. {only.high:.3f}"
        if decision == "inconclusive":
            return f"{title} is undecided{place} ({ratio}; too noisy, only {100 * only.mde:.2g} %)"
        return f"{title} is {said}{place} ({1 / only.ratio:.2f}x, {ratio})"
    gains = sorted(1 / found.ratio for _, found in items)
    noise = ""
    if decision == "inconclusive":
        noise = f"; too noisy to find less than {100 * max(f.mde for _, f in items):.2g} %"
    return f"{title} is {said} in {len(items)} of {total} configurations ({gains[0]:.2f}x .. {gains[-1]:.2f}x{noise})"


def _label(row: Row) -> str:
    return f"{row.entry.title} ({row.configuration})"
