"""Files that appear complete or not at all.

On Linux the data go to an unnamed file (``O_TMPFILE``) which is linked into the folder only when it is complete and
flushed, so that a killed process leaves nothing behind; elsewhere a hidden sibling takes its place. To replace a file
it needs a hidden name for a moment as well. Whoever writes a file holds a lock on it, so that what a killed process has
left can be told from what a living one is about to finish: the next commit into the folder removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onnxopt.errors import OutputError

if sys.platform != "win32":
    import fcntl

__all__ = ["Pending", "check_writable", "pending", "remove_abandoned", "write_atomic"]

MODE = 0o666
PREFIX, SUFFIX = ".onnxopt-", ".partial"
HIDDEN = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}{re.escape(SUFFIX)}")


@dataclass(frozen=True)
class Pending:
    """A file under construction: write to ``file``, then ``commit`` it under its final path.

    Attributes:
        file: Where its data go.
        hidden: Name that it has where it needs one.
        unnamed: Whether it has no name yet.
        durable: Whether it must survive a power cut; bringing it to disk takes longer than writing it.
    """

    file: BinaryIO
    hidden: Path
    unnamed: bool
    durable: bool = True

    def commit(self, path: Path) -> None:
        """Flushes the data and puts the file at ``path`` in one step, replacing what is there."""
        self.flush()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            if not (self.unnamed and self._link(path, folder)):
                if self.unnamed:
                    self._link(self.hidden, folder)
                self.hidden.replace(path)
            if self.durable:
                os.fsync(folder)
        finally:
            os.close(folder)
        for file in path.parent.iterdir():
            if HIDDEN.fullmatch(file.name):
                remove_abandoned(file)

    def is_at(self, path: Path) -> bool:
        """Whether the file at ``path`` is this one."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), path.stat())
        except FileNotFoundError:
            return False

    def flush(self) -> None:
        """Brings what was written to disk, or where it need not last, to the system."""
        self.file.flush()
        if self.durable:
            os.fsync(self.file.fileno())

    def _link(self, path: Path, folder: int) -> bool:
        """Gives the unnamed file its name; ``False`` when that is taken."""
        try:
            # A folder descriptor makes Python call linkat(2), which follows the link under /proc; link(2) does not.
            os.link(f"/proc/self/fd/{self.file.fileno()}", path, src_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:
            return False
        return True


@contextmanager
def pending(folder: Path, *, option: str = "-o", durable: bool = True) -> Generator[Pending]:
    """A pending file in ``folder``; what is not committed is removed.

    Args:
        folder: Where the file is to appear.
        option: The option that named it, for messages.
        durable: Whether it is to be flushed to disk.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full.
    """
    hidden = folder / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
    try:
        descriptor, unnamed = _open(folder, hidden)
        with os.fdopen(descriptor, "w+b") as file:
            try:
                yield Pending(file, hidden, unnamed, durable)
            finally:
                hidden.unlink(missing_ok=True)
    except OSError as error:
        raise _output_error(folder, error, option) from error


def write_atomic(path: Path, payload: bytes, *, option: str = "-o", durable: bool = True) -> None:
    """Writes ``payload`` to ``path`` in one step; links are followed, special files are refused.

    Args:
        path: Where the file is to appear.
        payload: All of it.
        option: The option that named it, for messages.
        durable: Whether it is to be flushed to disk.

    Raises:
        OutputError: The path cannot be written, or the disk is full.
    """
    final = check_writable(path, option=option)
    with pending(final.parent, option=option, durable=durable) as draft:
        draft.file.write(payload)
        draft.commit(final)


def remove_abandoned(file: Path) -> None:
    """Removes ``file``, which a commit has made, unless a process is still about to finish what it belongs to."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return
        with file.open("r+b") as stream:
            if _lock(stream.fileno()):
                file.unlink()
    except OSError:  # it is gone already, or not ours to remove
        return


def check_writable(path: Path, *, option: str = "-o") -> Path:
    """The real path behind ``path`` when a result can be written there; call it before long work.

    Args:
        path: Where the result is to go.
        option: The option that named it, for messages.

    Raises:
        OutputError: The folder is missing or not writable, or ``path`` is a folder or a special file.
    """
    final = Path(os.path.realpath(path))
    try:
        mode = final.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise _output_error(path, error, option) from error
    if mode is not None and not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a special file"
        raise OutputError(f"the result cannot replace {kind}", where=str(path), fix=f"give a file name with {option}")
    if not final.parent.is_dir():
        raise OutputError(
            "the output folder does not exist", where=str(final.parent), fix=f"create it, or change {option}"
        )
    if mode is not None and not os.access(final, os.W_OK):
        raise OutputError(
            "the file there is write-protected", where=str(path), fix=f"change {option} or the permissions"
        )
    with pending(final.parent, option=option):  # permissions alone do not tell: the file system may be read-only
        return final


def _open(folder: Path, hidden: Path) -> tuple[int, bool]:
    """A file that is locked until it is closed, and whether it has no name."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, MODE)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        else:
            _lock(descriptor)
            return descriptor, True
    descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, MODE)
    _lock(descriptor, wait=True)
    if hidden.exists():
        return descriptor, False
    os.close(descriptor)  # another process took it for one that was left before it was locked
    return _open(folder, hidden)


def _lock(descriptor: int, *, wait: bool = False) -> bool:
    """Locks an open file until it is closed; ``False``: another has locked it, or files cannot be locked there."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _output_error(path: Path, error: OSError, option: str) -> OutputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return OutputError(
        f"the result cannot be written: {error.strerror}",
        where=str(path),
        fix="free some space or raise the limit, or write to another disk"
        if full
        else f"check the folder and its permissions, or change {option}",
    )
