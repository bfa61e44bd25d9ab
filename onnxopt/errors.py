"""All errors that onnxopt raises on purpose, in one tree.

    OnnxoptError                 exit code
    ├── UsageError               2   unknown option value, pattern, provider, pass or key
    ├── InputError               3
    │   ├── ModelError           3   model file unreadable or invalid
    │   ├── DataError            3   data do not fit the model's inputs
    │   ├── ProviderError        3   execution provider not created, or nodes fell back to another one
    │   ├── OutputError          3   the result cannot be written (path, permission, disk full)
    │   └── MissingExtraError    3   an optional package is not installed
    ├── VerificationError        1   a pass produced a model that is not equivalent: nothing is written
    └── NothingChangedError      4   the request had no effect on this model

Every error has three parts: what failed, where (file, node, op, input), and what to do next.
The codes 0, 1 and 5 of a finished command come from its verdict, not from an error; so does 3 when only a part failed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "DataError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "NothingChangedError",
    "OnnxoptError",
    "OutputError",
    "ProviderError",
    "UsageError",
    "VerificationError",
    "nearest",
    "one_line",
    "printable",
]

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""All control characters but tab and line feed; halves of surrogate pairs; and two that XML forbids too."""


class OnnxoptError(Exception):
    """An error with a three-part message.

    Args:
        what: What failed, one sentence.
        where: File, node, op, input or option it concerns.
        fix: What the user can do next.
    """

    exit_code = 3

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  what to do: {self.fix}"


class UsageError(OnnxoptError):
    """A value given by the user is not known here (exit code 2)."""

    exit_code = 2


class InputError(OnnxoptError):
    """An input cannot be used (exit code 3)."""

    exit_code = 3


class ModelError(InputError):
    """A model file is unreadable or invalid."""


class DataError(InputError):
    """Data do not fit the model's inputs."""


class ProviderError(InputError):
    """An execution provider was not created, or some nodes fell back to another one."""


class OutputError(InputError):
    """The result cannot be written."""


class MissingExtraError(InputError):
    """An optional package is not installed."""


class VerificationError(OnnxoptError):
    """A changed model is not equivalent to the one it came from (exit code 1)."""

    exit_code = 1


class NothingChangedError(OnnxoptError):
    """The request had no effect on this model (exit code 4)."""

    exit_code = 4


def printable(text: str) -> str:
    """``text`` with control characters spelled out: names in a model must not steer the terminal."""
    return UNPRINTABLE.sub(_spelled, text)


def one_line(text: str) -> str:
    """``printable`` without line breaks: CI systems take what begins a line for a command (``::error::``)."""
    return " ".join(line.strip() for line in printable(text).split("\n"))


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A phrase that names the known names nearest to ``name``, or all of them when none is near."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(n) for n in close) + "?"
    shown = ", ".join(repr(n) for n in names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known: {shown}" if names else "there is none to choose from"


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
