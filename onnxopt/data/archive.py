"""``.npz`` and ``.npy`` files: headers without the values, arrays, content digests."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from onnxopt.data.content import Digest, natural_key, readable
from onnxopt.data.dataset import Array

__all__ = ["Header", "digest", "headers", "load", "load_npy"]


@dataclass(frozen=True)
class Header:
    """Shape and dtype of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def headers(path: Path) -> dict[str, Header]:
    """Name -> header of each array of an ``.npz`` file; no values are read.

    Raises:
        DataError: The file is missing, truncated or no archive of arrays, or an array holds pickled objects.
    """
    found: dict[str, Header] = {}
    with readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist(), key=natural_key):
            with archive.open(member) as file:
                found[member.removesuffix(".npy")] = _header(file)
    return found


def load(path: Path, names: Iterable[str]) -> dict[str, Array]:
    """The arrays ``names`` of an ``.npz`` file.

    Raises:
        DataError: They cannot be read.
    """
    with readable(path, ".npz"), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in names}


def load_npy(path: Path) -> Array:
    """The array of an ``.npy`` file, memory-mapped.

    Raises:
        DataError: It cannot be read, or holds pickled objects.
    """
    with readable(path, ".npy"):
        with path.open("rb") as file:
            _header(file)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def digest(path: Path, into: Digest) -> None:
    """Adds names and contents of all arrays of an ``.npz`` file; neither compression nor file times matter.

    Raises:
        DataError: They cannot be read.
    """
    with readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            into.text(member)
            with archive.open(member) as file:
                into.stream(file)


def _header(file: IO[bytes]) -> Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    return Header(tuple(shape), dtype)
