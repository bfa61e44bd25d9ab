"""What a pass is: a frozen dataclass whose fields are its options; its ``run`` says what it did and why not more."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset
from onnxopt.run.target import Target

__all__ = ["Context", "Pass", "PassResult", "Step"]


@dataclass(frozen=True)
class Context:
    """All that a pass may take from outside.

    Attributes:
        workdir: Folder for intermediate files, removed by whoever made it.
        data: Samples to calibrate on, if any.
        target: Where the result is to run.
        seed: Seed of every random choice.
        progress: Where long work tells how far it is.
        workers: Processes that share a pass over the data; with ``ray``: its tasks at a time, 1: no limit of ours.
        ray: Address of the Ray cluster that calibrates; ``None``: this machine does.
    """

    workdir: Path
    data: Dataset | None = None
    target: Target = field(default_factory=Target)
    seed: int = 0
    progress: Progress = field(default_factory=SilentProgress)
    workers: int = 1
    ray: str | None = None


@dataclass(frozen=True)
class PassResult:
    """What a pass made of a model.

    Attributes:
        model: The changed model (a pass may change the one it was given and return it).
        changes: How many places were changed; 0 means that the saved bytes are the same.
        notes: Candidates that were declined, with the reason.
    """

    model: Model
    changes: int
    notes: tuple[Note, ...] = ()


class Step(Protocol):
    """A part of a recipe: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    """What users type, kebab-case."""


class Pass(Step, Protocol):
    """A graph transformation. Implementations are frozen dataclasses without state between runs."""

    lossy: ClassVar[bool]
    """Whether outputs may differ by more than rounding; such a pass is judged by a metric instead of equality."""

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Changes ``model`` in place or returns another one; never touches files outside ``ctx.workdir``."""
        ...
