"""The interface through which long work tells how far it is; drawing belongs to the command line."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "Progress", "SilentProgress"]

Advance = Callable[[int], None]
"""Called with the number of steps just done."""


class Progress(Protocol):
    """Something that shows how far a task is."""

    def task(self, description: str, total: int | None) -> AbstractContextManager[Advance]:
        """A context whose value is called with each number of finished steps; ``None``: length unknown."""
        ...

    def note(self, text: str) -> None:
        """Shows one line about what is being done."""
        ...


class SilentProgress:
    """Shows nothing: the default when onnxopt is used as a library."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Generator[Advance]:
        """A context whose value accepts and forgets progress."""
        del description, total
        yield lambda steps: None

    def note(self, text: str) -> None:
        """Forgets the line."""
        del text
