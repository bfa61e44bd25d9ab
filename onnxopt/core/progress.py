"""The interface through which long work tells how far it is; drawing belongs to the command line."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Advance", "Progress", "SilentProgress", "share"]

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


@contextmanager
def share(progress: Progress, advance: Advance, steps: int) -> Generator[Progress]:
    """Progress whose steps count for the whole too; those that turn out not to be needed are counted at the end."""
    part = _Part(progress, advance)
    yield part
    advance(steps - part.done)


class _Part:
    """Hands the steps of a task on to the whole. Mutable: it counts them."""

    def __init__(self, progress: Progress, advance: Advance) -> None:
        self._progress, self._advance = progress, advance
        self.done = 0

    @contextmanager
    def task(self, description: str, total: int | None) -> Generator[Advance]:
        """The bar of the task, beside that of the whole."""
        with self._progress.task(description, total) as inner:

            def step(steps: int) -> None:
                inner(steps)
                self._advance(steps)
                self.done += steps

            yield step

    def note(self, text: str) -> None:
        """Handed on as it is."""
        self._progress.note(text)
