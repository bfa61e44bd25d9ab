"""What each framework gives so that its models can be exported and compared: one ``Original`` a model.

A framework is a module of this package with a function that opens an ``Original``, and an entry in ``opening.py``,
which imports that module only after it has found the packages that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.errors import InputError, OnnxoptError
from onnxopt.run.session import Feeds

__all__ = [
    "Exporter",
    "Intermediates",
    "Original",
    "Request",
    "Stepped",
    "require_trust",
    "root_cause",
    "said_by",
]

Intermediates: TypeAlias = Callable[[Path, Feeds], Mapping[str, Array]]
"""(the file that the exporter wrote, feeds) -> what the framework computes, by the name of the ONNX value that is to
hold the same."""


@dataclass(frozen=True)
class Request:
    """What the user says about a source beyond its name.

    Attributes:
        inputs: ``--input``: names, dtypes and shapes, where the source itself does not tell; symbols are free axes.
            Free axes of a source that does tell may be given a size.
        sizes: Example sizes of the symbols in ``inputs``.
        trust: ``--trust``: code inside the files (pickles) may run.
        seed: Of random feeds.
        assumed: Inputs as the data, or the model that is compared, have them; for sources that do not tell.
    """

    inputs: tuple[TensorSpec, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    trust: bool = False
    seed: int = 0
    assumed: tuple[TensorSpec, ...] = ()

    @property
    def described(self) -> tuple[TensorSpec, ...]:
        """Inputs as the user describes them, else as they may be taken to be."""
        return self.inputs or self.assumed


@dataclass(frozen=True)
class Exporter:
    """One way to write a model as ONNX.

    Attributes:
        name: What ``--exporter`` and the report call it.
        write: Writes ONNX to a scratch path; whatever it raises is the reason why this way failed.
        intermediates: For the search of the first difference; ``None``: this way does not say which value is which.
    """

    name: str
    write: Callable[[Path], None]
    intermediates: Intermediates | None = None


class Original(Protocol):
    """A model as its framework runs it, in evaluation mode."""

    @property
    def framework(self) -> str:
        """``"pytorch"``, ``"scikit-learn"``, ``"keras"``, ...: for the metadata and messages."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the packages that define what the model computes."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs in the order of the ONNX file that the exporters write; symbols (or ``None``) are free axes."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names for the outputs, in the order of ``run``; ``()``: those that the exporter gives."""
        ...

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was decided or found when the model was opened (``"was in training mode"``, ...)."""
        ...

    def run(self, feeds: Feeds) -> tuple[Array, ...]:
        """The outputs in evaluation mode; equal feeds give equal outputs.

        Raises:
            Exception: The framework refuses these feeds.
        """
        ...

    def fingerprint(self) -> str:
        """Hex SHA-256 of the weights (and of the configuration that fixes what they mean); no path goes in."""
        ...

    def feeds(self, batch: int, variant: int, seed: int) -> Feeds | None:
        """Random feeds that the model takes.

        Args:
            batch: Size of the batch axis; 1 stands for the only size where that axis is fixed.
            variant: 0: the usual sizes of the other free axes, 1: other sizes.
            seed: Of the values.

        Returns:
            ``None`` where there are none: the batch is fixed, or for variant 1 no other axis is free.
        """
        ...

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """The ways to write it, in order of preference.

        Args:
            opset: The version of the operator set; ``None``: what each exporter takes to be best.
        """
        ...


@runtime_checkable
class Stepped(Protocol):
    """An original whose answers jump where an input crosses a threshold (trees, labels, nearest neighbours).

    On a threshold rounding decides, so that two right computations can give answers that are far apart.
    """

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of the calls to compare: a wrong threshold shows on few rows only."""
        ...

    def undecided(self, feeds: Feeds, found: Sequence[Array]) -> Array:
        """Rows ``(n,) bool`` on which the original's own answer turns into ``found`` within rounding.

        Only rows whose answers differ can be undecided.
        """
        ...

    def tied(self, feeds: Feeds, found: Sequence[Array]) -> Array:
        """Rows ``(n,) bool`` that agree but for the label, which names another one of classes that are equally likely.

        They hide nothing, and forests of few or pure trees have many of them.
        """
        ...


def require_trust(path: Path, request: Request, why: str) -> None:
    """Refuses a file that can run code when it is read, unless the user trusts it.

    Args:
        path: The file.
        request: Holds ``trust``.
        why: ``"a pickle"``, ...: what about the file is unsafe.

    Raises:
        InputError: It is not trusted.
    """
    if not request.trust:
        raise InputError(
            f"reading this file can run any code that is in it ({why})",
            where=path.name,
            fix="give --trust if you trust where it comes from",
        )


def said_by(error: BaseException | None, most: int = 300) -> str:
    """``TypeError: message``: an error of a framework in one line, at most so many characters of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


def root_cause(error: BaseException) -> str:
    """The innermost cause in one line: exporters wrap it in advice and stack traces; errors of onnxopt as they are."""
    while error.__cause__ is not None and not isinstance(error, OnnxoptError):
        error = error.__cause__
    if isinstance(error, OnnxoptError):
        return error.what
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
