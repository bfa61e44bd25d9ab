"""What each kind of source hands to :func:`onnxopt.data.sources.open_dataset`, and how content is hashed."""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from onnxopt.data.dataset import Array, Sample
from onnxopt.errors import DataError, OnnxoptError

__all__ = ["Digest", "Source", "natural_key", "readable"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """An opened source: names, dtypes and shapes are checked, values are not.

    Attributes:
        count: Number of samples.
        read: Reads and checks one of them.
        digest: Hex SHA-256 over the content.
        has_labels: Whether each sample carries labels.
        notes: What was left out or decided, for the report.
    """

    count: int
    read: Callable[[int], Sample]
    digest: str
    has_labels: bool = False
    notes: tuple[str, ...] = ()


class Digest:
    """SHA-256 over a sequence of parts, each delimited by its length.

    Mutable, since a digest is fed as a stream.
    """

    def __init__(self, kind: str) -> None:
        self._hash = hashlib.sha256()
        self.text(kind)

    def text(self, text: str) -> None:
        """Adds a text."""
        data = text.encode()
        self._hash.update(struct.pack("<q", len(data)) + data)

    def array(self, array: Array) -> None:
        """Adds dtype, shape and values."""
        self.text(f"{array.dtype.str}{array.dtype.name}{array.shape}")
        self._hash.update(np.ascontiguousarray(array).tobytes())

    def stream(self, file: IO[bytes]) -> None:
        """Adds all bytes of an open file."""
        part = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            part.update(chunk)
        self._hash.update(part.digest())

    def file(self, path: Path) -> None:
        """Adds all bytes of a file, not its name."""
        with path.open("rb") as file:
            self.stream(file)

    def hex(self) -> str:
        """The digest of what was added so far."""
        return self._hash.hexdigest()


@contextmanager
def readable(path: Path, kind: str) -> Generator[None]:
    """Turns what readers raise on a missing, truncated or foreign file into a :class:`DataError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path), fix="check the path") from error
    except zipfile.BadZipFile as error:
        raise DataError(
            f"not a readable {kind} file, it may be truncated: {error}", where=str(path), fix="write the file again"
        ) from error
    except ValueError as error:
        fix = "write the file again"
        if "pickle" in str(error) or "Object arrays" in str(error):
            fix = "store plain numeric or string arrays: pickled objects can run code and are refused"
        raise DataError(f"not a readable {kind} file: {error}", where=str(path), fix=fix) from error
    except OnnxoptError:
        raise
    except Exception as error:  # numpy, Pillow and zipfile raise almost anything on damaged bytes
        raise DataError(
            f"cannot read the {kind} file: {str(error) or type(error).__name__}",
            where=str(path),
            fix="write the file again",
        ) from error


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key under which ``s2`` comes before ``s10``."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)
