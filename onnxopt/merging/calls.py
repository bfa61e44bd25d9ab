"""What each member answers to the data, from a session of its own: the ensemble that people run today, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.io import save_scratch
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, ModelError
from onnxopt.merging.member import Member
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

__all__ = ["Calls", "member_file", "run_members"]

MOST_BYTES = 1 << 30
"""Outputs that are held; data beyond are left out."""


@dataclass(frozen=True)
class Calls:
    """The answers of all members, call by call.

    Attributes:
        outputs: For each call the output of each member, ``(n, ...)``.
        labels: For each call its labels; ``None``: the data have none.
        left_out: Calls whose outputs did not fit into memory.
    """

    outputs: tuple[tuple[Array, ...], ...]
    labels: tuple[Array, ...] | None
    left_out: int = 0

    @property
    def items(self) -> int:
        """Entries of the batch axis over all calls."""
        return sum(len(call[0]) for call in self.outputs)

    def take(self, indices: Sequence[int]) -> Calls:
        """Some of the calls."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return Calls(tuple(self.outputs[i] for i in indices), labels)

    def only(self, *places: int) -> Calls:
        """The same calls with some of the members."""
        return Calls(tuple(tuple(call[k] for k in places) for call in self.outputs), self.labels)


def member_file(member: Member, folder: Path) -> Path:
    """A file that gives the member's output: its own, or one in ``folder`` with what is behind a ZipMap."""
    if not member.is_changed:
        return member.path
    path = folder / f"{member.path.stem}.inner.onnx"
    if not path.exists():
        save_scratch(member.model, path)
    return path


def run_members(
    members: Sequence[Member], data: Dataset, target: Target, folder: Path, progress: Progress | None = None
) -> Calls:
    """The output of each member on each sample of the data.

    Raises:
        DataError: A member does not run on them.
        ModelError: A member returns NaN or no batch, or the members return different numbers of items.
    """
    progress = progress or SilentProgress()
    sessions = [open_session(member_file(member, folder), target) for member in members]
    outputs: list[tuple[Array, ...]] = []
    labels: list[Array] = []
    held = 0
    with progress.task("running the members", len(data)) as advance:
        for sample in data:
            if held > MOST_BYTES:
                break
            call = tuple(
                session.run(member.feed(sample.feeds), [member.output])[member.output]
                for session, member in zip(sessions, members, strict=True)
            )
            _check(members, call, len(outputs))
            held += sum(array.nbytes for array in call)
            outputs.append(call)
            if data.has_labels:
                labels.append(_labels(sample.labels, data.source))
            advance(1)
    return Calls(tuple(outputs), tuple(labels) if data.has_labels else None, len(data) - len(outputs))


def _labels(labels: Array | None, source: str) -> Array:
    if labels is None:
        raise DataError(
            "some samples have labels and this one has none", where=source, fix="give every sample its labels"
        )
    return np.atleast_1d(labels)


def _check(members: Sequence[Member], call: Sequence[Array], sample: int) -> None:
    for member, array in zip(members, call, strict=True):
        if not array.ndim:
            raise ModelError(
                f"output {member.output!r} is a single number without a batch axis",
                where=member.title,
                fix="choose another output with --output-name",
            )
        if np.isnan(array).any():
            raise ModelError(
                f"output {member.output!r} is NaN on sample {sample}, and so would be the ensemble",
                where=member.title,
                fix="repair the model, or check its preprocessing (--preprocess)",
            )
        if len(array) != len(call[0]):
            raise ModelError(
                f"the members return different numbers of items: {members[0].title} {len(call[0])}, "
                f"{member.title} {len(array)}",
                where=f"output {member.output!r} of {member.title}",
                fix="merge models with the same batch axis",
            )
