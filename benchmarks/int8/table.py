"""Prints the README's tables from ``benchmarks/results/int8_peers.json``: ``python -m benchmarks.int8.table [--all]``.

For each model: what onnxopt wrote, the most accurate peer, and the fastest peer within two points of fp32 (``--all``:
every method), then each goal with what was found.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.findings import Data, goal_table, table
from benchmarks.int8.goals import check_goals, disagreement, peers_judged, speed_up

RESULT = Path(__file__).parents[1] / "results" / "int8_peers.json"
COLUMNS = ("model", "method", "score (fp32)", "differs", "SQNR dB", "speed-up", "size", "wall s", "peak MB", "")
LONGEST = 160


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8.table")
    parser.add_argument("--all", action="store_true", help="every method, not only the best peers")
    parser.add_argument("result", nargs="?", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    print(report(json.loads(options.result.read_text(encoding="utf-8")), every=options.all))


def report(document: Data, *, every: bool = False) -> str:
    """Return the tables of a result as Markdown."""
    rows = [_cells(entry, row) for entry in document["entries"] for row in _shown(entry, every)]
    return f"{table(COLUMNS, rows)}\n\n{goal_table(check_goals(document['entries']))}"


def _shown(entry: Data, every: bool) -> list[Data]:
    best = {pair["peer"] for pair in entry["pairs"]} or _best_of(entry)
    return [row for row in entry["rows"] if every or row["peer"] is None or row["method"] in best]


def _best_of(entry: Data) -> set[str]:
    """Where onnxopt wrote nothing there are no direct pairs: the most accurate and the fastest of all peers."""
    rows = peers_judged(entry)
    if not rows:
        return set()
    accurate = max(rows, key=lambda row: row["judgement"]["comparison"]["candidate_score"])
    return {accurate["method"], max(rows, key=speed_up)["method"]}


def _cells(entry: Data, row: Data) -> tuple[str, ...]:
    made, judged = row["made"], row["judgement"]
    cost = ("", "") if made is None else (f"{made['wall_s']:.0f}", f"{made['peak_rss_mb']:.0f}")
    if judged is None:
        return entry["id"], row["method"], "", "", "", "", "", *cost, _short(row["verdict"])
    comparison, latency, noise = judged["comparison"], judged["latency"], judged["sqnr_db"]
    score = f"{comparison['candidate_score']:.3f} ({comparison['reference_score']:.3f})"
    beside = [
        f"{1 / p['latency']['ratio']:.2f}x as fast as {p['peer']}: {p['latency']['decision']}"
        for p in entry["pairs"]
        if p["method"] == row["method"]
    ]
    return (
        entry["id"],
        row["method"],
        "" if entry["metric"] is None else score,
        f"{100 * disagreement(row):.1f} %",
        "" if noise is None else f"{noise:.1f}",
        f"{1 / latency['ratio']:.2f}x ({1 / latency['high']:.2f} .. {1 / latency['low']:.2f})",
        f"{judged['size_share']:.2f}",
        *cost,
        "; ".join([row["verdict"], *dict.fromkeys(beside)]),
    )


def _short(reason: str) -> str:
    said = "; ".join(part.split(" (ratio")[0] for part in reason.split("; "))
    return said if len(said) <= LONGEST else said[: LONGEST - 3] + "..."


if __name__ == "__main__":
    main()
