"""What a run needs to go on after it was killed: one file that appears complete or not at all."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from onnxopt.core.atomic import write_atomic

__all__ = ["State", "load_state", "save_state"]


@dataclass
class State:
    """Where a run is. Mutable: training changes it.

    Attributes:
        step: Steps that are done.
        parameters: The weights after them.
        optimizer: What the optimizer keeps.
        best: The weights of the smallest held-back loss.
        best_step: When that was.
        best_loss: How small it was.
        first_loss: The held-back loss before training.
        bad: Looks since then.
        history: Step, mean loss of training since the last look, held-back loss, learning rate.
        seconds: Time spent.
        stopped: Why training ended before its last step; empty: it did not.
    """

    step: int
    parameters: list[Tensor]
    optimizer: dict[str, Any]
    best: list[Tensor]
    best_step: int = 0
    best_loss: float = float("inf")
    first_loss: float = float("inf")
    bad: int = 0
    history: list[tuple[int, float, float, float]] = field(default_factory=list[tuple[int, float, float, float]])
    seconds: float = 0.0
    stopped: str = ""


def save_state(path: Path, state: State, key: str) -> None:
    """Writes the state; ``key`` says which run it belongs to.

    Raises:
        OutputError: The file cannot be written.
    """
    payload = io.BytesIO()
    torch.save({"key": key, **vars(state)}, payload)
    write_atomic(path, payload.getvalue())


def load_state(path: Path, key: str, device: str) -> State | None:
    """The state of the same run, or ``None``: there is none, it is of another run, or it is damaged."""
    if not path.is_file():
        return None
    try:
        stored = cast("dict[str, Any]", torch.load(path, map_location=device, weights_only=True))
        if stored.pop("key") != key:
            return None
        stored["history"] = [tuple(row) for row in stored["history"]]
        return State(**stored)
    except Exception:  # a damaged file raises almost anything
        return None
