"""Results as plain data: written to a file, held against goals, printed as tables."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Data = dict[str, Any]
GOAL_COLUMNS = ("model", "method", "goal", "figures (those not reached in bold)")


@dataclass(frozen=True)
class Finding:
    """One condition of a goal.

    Attributes:
        is_reached: Whether it holds.
        text: What is asked for, and what was found.
    """

    is_reached: bool
    text: str


Condition = Callable[[Data, Data], Finding]
"""Takes an entry of the results and one of its rows that has a judgement."""
Goal = tuple[str, str, Finding]
"""Model, method, and whether all conditions hold, with the figures."""


def together(findings: Sequence[Finding]) -> Finding:
    """All conditions of a goal as one."""
    text = "; ".join(f.text if f.is_reached else f"**{f.text}**" for f in findings)
    return Finding(all(f.is_reached for f in findings), text)


def goal_table(goals: Sequence[Goal]) -> str:
    """Each goal with what was found, as Markdown."""
    rows = [(model, method, "reached" if f.is_reached else "not reached", f.text) for model, method, f in goals]
    return table(GOAL_COLUMNS, rows)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("|" + "|".join(f" {cell} ".replace("|", "/") for cell in line) + "|" for line in lines)


def drop(most: float) -> Condition:
    """The score is at most so much below that of the input model."""

    def check(_: Data, row: Data) -> Finding:
        found = row["judgement"]["comparison"]["drop"]
        return Finding(found <= most, f"drop {found:+.4f} of at most {most:g}")

    return check


def stored(out: Path) -> dict[str, Data]:
    """The entries of an earlier result, by model."""
    return {e["id"]: e for e in json.loads(out.read_text(encoding="utf-8"))["entries"]} if out.exists() else {}


def joined(old: Data | None, new: Data, environment: Data) -> Data:
    """``new`` with the rows of ``old`` by other methods; each row has the environment that it was judged in."""
    done = {row["method"] for row in new["rows"]}
    rows = [{**row, "environment": environment} for row in new["rows"]]
    before = old or {"rows": []}
    rows += [{"environment": before.get("environment"), **r} for r in before["rows"] if r["method"] not in done]
    return {**new, "rows": rows}


def write(entries: Sequence[Data], out: Path) -> Data:
    """Write the entries of a result as JSON and return what is written."""
    document = {"entries": [_finite(entry) for entry in entries]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return document


def _finite(value: object) -> object:
    """Infinite and undefined numbers become null, as JSON has none."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
