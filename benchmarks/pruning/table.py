"""Prints the README's tables from ``benchmarks/results/prune.json``: ``python -m benchmarks.pruning.table [FILE]``.

For each model what every method left of it, then each goal with what was found.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.findings import Data, goal_table, table
from benchmarks.pruning.goals import check_goals, kept_accuracy

RESULT = Path(__file__).parents[1] / "results" / "prune.json"
COLUMNS = ("model", "method", "score (fp32)", "kept", "MACs", "params", "latency", "wall s", "peak MB", "")
LONGEST = 160


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruning.table")
    parser.add_argument("result", nargs="?", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    print(report(json.loads(options.result.read_text(encoding="utf-8"))))


def report(document: Data) -> str:
    """Return the tables of a result as Markdown."""
    rows = [_cells(entry, row) for entry in document["entries"] for row in entry["rows"]]
    return f"{table(COLUMNS, rows)}\n\n{goal_table(check_goals(document['entries']))}"


def _cells(entry: Data, row: Data) -> tuple[str, ...]:
    made, judged, shares = row["made"], row["judgement"], row["shares"]
    cost = ("", "") if made is None else (f"{made['wall_s']:.0f}", f"{made['peak_rss_mb']:.0f}")
    if judged is None:
        error = row["error"]
        return entry["id"], row["method"], *[""] * 5, *cost, error if len(error) <= LONGEST else error[:LONGEST] + "..."
    comparison, latency = judged["comparison"], judged["latency"]
    score = f"{comparison['candidate_score']:.3f} ({comparison['reference_score']:.3f})"
    return (
        entry["id"],
        row["method"],
        "" if entry["metric"] is None else score,  # random weights have no accuracy to keep
        "" if entry["metric"] is None else f"{100 * kept_accuracy(row):.1f} %",
        f"{shares['macs']:.3f}",
        f"{shares['params']:.3f}",
        f"{latency['ratio']:.3f} ({latency['low']:.3f} .. {latency['high']:.3f})",
        *cost,
        "" if not made["exit_code"] else f"exit {made['exit_code']}",
    )


if __name__ == "__main__":
    main()
