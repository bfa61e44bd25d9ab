"""Prints the README's table from ``benchmarks/results/int8.json``: ``python -m benchmarks.int8_table``."""

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "int8.json"
COLUMNS = ("model", "method", "score (fp32)", "SQNR dB", "latency, speed-up", "size", "wall s", "peak MB", "")


def main() -> None:
    """Prints one row for each model and method."""
    rows = [r for r in json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if r["method"] != "fp32"]
    print("|" + "|".join(f" {c} " for c in COLUMNS) + "|\n" + "|---" * len(COLUMNS) + "|")
    for row in rows:
        print("|" + "|".join(f" {c} " for c in _cells(row)) + "|")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    made, judged = row["made"], row.get("judgement")
    cost = (f"{made['wall_s']:.0f}", f"{made['peak_rss_mb']:.0f}")
    if judged is None:
        return row["id"], row["method"], "", "", "", "", *cost, "no file: " + _short(made["reason"])
    comparison, latency = judged["comparison"], judged["latency"]
    score = f"{comparison['candidate_score']:.3f} ({comparison['reference_score']:.3f})"
    speed = f"{1 / latency['ratio']:.2f}x ({1 / latency['high']:.2f} .. {1 / latency['low']:.2f})"
    return (
        row["id"],
        row["method"],
        score,
        f"{judged['sqnr_db']:.1f}",
        speed,
        f"{judged['size_share']:.2f}",
        *cost,
        row["verdict"],
    )


def _short(reason: str) -> str:
    return "; ".join(part.split(" (ratio")[0] for part in reason.split("; "))


if __name__ == "__main__":
    main()
