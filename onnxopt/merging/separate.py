"""What people do today: a session for each member, as files that take the shared inputs."""

from __future__ import annotations

from pathlib import Path

from onnxopt.core.io import save_scratch
from onnxopt.merging.align import Alignment
from onnxopt.merging.combine import finish, join
from onnxopt.run.settings import read_settings, write_settings

__all__ = ["separate_files"]


def separate_files(alignment: Alignment, folder: Path) -> tuple[Path, ...]:
    """One file a member: its own where that takes the shared inputs, else one in ``folder`` with its adapter."""
    found: list[Path] = []
    for index, member in enumerate(alignment.members):
        if member.is_plain:
            found.append(member.path)
            continue
        joined = join(alignment, [member])
        path = folder / f"member{index}.onnx"
        save_scratch(finish(joined, joined.values[0], member.spec), path)
        write_settings(path, read_settings(member.path))
        found.append(path)
    return tuple(found)
