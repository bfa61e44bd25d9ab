"""Draws a report on a terminal: the verdict first, then its tables, then why candidates were declined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table as RichTable

from onnxopt.core.report import Cell, Note, Report, Status, Table
from onnxopt.errors import one_line

__all__ = ["render"]

STYLES = {
    Status.PASS: "bold green",
    Status.FAIL: "bold red",
    Status.ERROR: "bold red",
    Status.UNCHANGED: "bold yellow",
    Status.INCONCLUSIVE: "bold yellow",
    Status.INTERRUPTED: "bold yellow",
}
EXAMPLES = 3
"""Nodes named for each reason when not verbose."""


def render(report: Report, console: Console, *, verbosity: int = 0) -> None:
    """Prints ``report``; verbosity -1: the verdict only, 0: reasons grouped, 1: every note."""
    verdict = report.verdict
    console.print(
        f"[{STYLES[verdict.status]}]{verdict.status.value.upper()}[/] {_literal(verdict.reason)}", soft_wrap=True
    )
    if verbosity < 0:
        return
    for table in report.tables:
        console.print()
        console.print(_table(table))
    if report.notes:
        console.print()
        for line in _note_lines(report.notes, verbosity):
            console.print(_literal(line), soft_wrap=True)


def _table(table: Table) -> RichTable:
    drawn = RichTable(title=_literal(table.title), title_justify="left", title_style="bold")
    numeric = [all(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
    for column, is_numeric in zip(table.columns, numeric, strict=True):
        drawn.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(_literal(cell_text(cell)) for cell in row))
    return drawn


def cell_text(cell: Cell) -> str:
    """A cell as people read it: thousands separated, four significant digits, a dash for nothing."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.1f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return cell


def _literal(text: str) -> str:
    """``text`` as rich prints it literally."""
    return escape_markup(one_line(text))


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))


def _note_lines(notes: Iterable[Note], verbosity: int) -> list[str]:
    if verbosity > 0:
        return [f"{note.verdict}: {note.node}: {note.reason}" for note in notes]
    counts = Counter((note.verdict, note.reason) for note in notes)
    lines: list[str] = []
    for (verdict, reason), count in counts.items():
        nodes = list(dict.fromkeys(n.node for n in notes if (n.verdict, n.reason) == (verdict, reason)))
        named = ", ".join(nodes[:EXAMPLES]) + (", ..." if len(nodes) > EXAMPLES else "")
        lines.append(f"{verdict} {count}x: {reason} ({named})")
    return lines
