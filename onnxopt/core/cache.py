"""Where results are kept on disk between runs, addressed by what they were made from.

An entry is one ``.npz`` file that appears complete or not at all. A cache that cannot be written, or an entry that
cannot be read, costs the work again and nothing else.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.atomic import write_atomic
from onnxopt.errors import OutputError

__all__ = ["read_arrays", "user_folder", "write_arrays"]

Array = np.ndarray[Any, Any]

VARIABLE = "ONNXOPT_CACHE"


def user_folder(kind: str) -> tuple[Path, ...]:
    """The user's cache: in ``$ONNXOPT_CACHE`` (none when that is empty), else in ``onnxopt`` of the system's cache.

    Args:
        kind: What is kept there, the name of the folder.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return (Path(named) / kind,) if named else ()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return ((Path(base) if base else Path.home() / ".cache") / "onnxopt" / kind,)
    except RuntimeError:  # no home
        return ()


def read_arrays(folder: Path, key: str) -> dict[str, Array] | None:
    """The arrays of an entry, or ``None`` where there is no sound one."""
    try:
        payload = io.BytesIO((folder / f"{key}.npz").read_bytes())  # numpy leaves a damaged file open
        with np.load(payload, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # a damaged archive raises almost anything
        return None


def write_arrays(folder: Path, key: str, arrays: Mapping[str, Array], *, compressed: bool = False) -> None:
    """Keeps the arrays, where that is possible."""
    payload = io.BytesIO()
    store: Any = np.savez_compressed if compressed else np.savez
    store(payload, **arrays)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{key}.npz", payload.getvalue())
    except (OSError, OutputError):
        return
