"""Data files of a model that belong to no model any more: of the one that a save has replaced, or of a killed save.

Between the moments in which the two files of a pair get their names a kill leaves a data file that nobody refers to.
Which files are referred to is seen from the bytes of the models beside it, in which the name of a data file stands as
it is: that holds for damaged models and unknown formats too, and errs on the side of keeping.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["HASH_LENGTH", "is_own_name", "leftovers"]

HASH_LENGTH = 16
"""Hexadecimal digits of the content hash in the name of a data file."""


def is_own_name(name: str, path: Path) -> bool:
    """Whether ``name`` is one that a save to ``path`` gives its data file."""
    return re.fullmatch(rf"{re.escape(path.stem)}\.[0-9a-f]{{{HASH_LENGTH}}}\.data", name) is not None


def leftovers(path: Path) -> set[Path]:
    """The data files that saves to ``path`` have made and no model in the folder refers to.

    A model is what ends in ``.onnx``, and all else that has the name of ``path`` before a dot: another format, a copy.
    """
    try:
        names = [entry.name for entry in os.scandir(path.parent) if entry.is_file()]
    except OSError:
        return set()
    found = {name for name in names if is_own_name(name, path)}
    models = (n for n in names if n not in found and (n.lower().endswith(".onnx") or n.startswith(f"{path.stem}.")))
    for model in models if found else ():
        found -= _named(path.parent / model, found)
    return {path.parent / name for name in found}


def _named(file: Path, names: Iterable[str]) -> set[str]:
    """The names that stand in ``file``; all of them, where it cannot be read."""
    try:
        with file.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                return set()
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return {name for name in names if content.find(os.fsencode(name)) >= 0}
    except OSError:
        return set(names)
