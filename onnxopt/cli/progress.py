"""Progress bars on stderr; silent when stderr is no terminal or the user asked for quiet."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from onnxopt.core.progress import Advance
from onnxopt.errors import printable

__all__ = ["TerminalProgress"]

SPEED_SECONDS = 300
"""The time left is told from the steps of this period: one step of a measurement may take many seconds."""


class TerminalProgress:
    """Draws one bar a task, with the time left; lines in between stay readable when the output is a log file."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(file=sys.stderr, highlight=False)
        self._bars: RichProgress | None = None

    @contextmanager
    def task(self, description: str, total: int | None) -> Generator[Advance]:
        """A bar that lives as long as the context; nested tasks share the display."""
        if self._quiet or not self._console.is_terminal:
            yield lambda steps: None
            return
        owner = self._bars is None
        bars = self._bars or self._open()
        task = bars.add_task(printable(description), total=total)
        try:
            yield lambda steps: bars.advance(task, steps)
        finally:
            bars.remove_task(task)
            if owner:
                bars.stop()
                self._bars = None

    def note(self, text: str) -> None:
        """One line on stderr."""
        if not self._quiet:
            self._console.print(printable(text), markup=False, soft_wrap=True)

    def _open(self) -> RichProgress:
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            speed_estimate_period=SPEED_SECONDS,
        )
        self._bars.start()
        return self._bars
