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
