"""Event files for TensorBoard, where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxopt.core.plugins import optional
from onnxopt.errors import OutputError

__all__ = ["Events"]


class Events:
    """Writes figures of steps to a folder; does nothing without one. Mutable: it holds an open file.

    Args:
        folder: Where the event files go.

    Raises:
        MissingExtraError: tensorboardX is not installed.
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        module: Any = optional("tensorboardX", "tensorboard")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = module.SummaryWriter(str(folder))
        except OSError as error:
            raise OutputError(
                f"event files cannot be written: {error.strerror or error}",
                where=str(folder),
                fix="give a folder that can be written with --tensorboard",
            ) from error

    def add(self, step: int, **figures: float) -> None:
        """Figures of a step."""
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name.replace("_", "/", 1), value, step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
