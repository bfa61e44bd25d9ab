"""What every command returns: plain data with a JSON round trip. Rendering is elsewhere.

The exit code of a command is a function of its verdict alone (the table in the README).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, cast

from onnxopt import __version__
from onnxopt.errors import InputError

__all__ = ["JSON", "Cell", "Interrupted", "Note", "Report", "Status", "Table", "Verdict"]

JSON: TypeAlias = "None | bool | int | float | str | list[JSON] | dict[str, JSON]"
Cell: TypeAlias = "None | bool | int | float | str"

SCHEMA_VERSION = 1


class Status(StrEnum):
    """The outcome of a command.

    ``ERROR``: something could not be done, the rest was; ``INTERRUPTED``: what was done until Ctrl-C or SIGTERM.
    """

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    UNCHANGED = "unchanged"
    INCONCLUSIVE = "inconclusive"
    INTERRUPTED = "interrupted"

    @property
    def exit_code(self) -> int:
        """The process exit code that stands for this outcome."""
        return {"pass": 0, "fail": 1, "error": 3, "unchanged": 4, "inconclusive": 5, "interrupted": 130}[self.value]


@dataclass(frozen=True)
class Verdict:
    """The outcome and, in one sentence, the reason."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Note:
    """Why a candidate (a node, a pass, a model) was taken or declined.

    Attributes:
        node: Name of the node or candidate.
        verdict: ``"changed"``, ``"kept"``, ``"skipped"``, ...: one word.
        reason: One sentence, lower case, no full stop.
    """

    node: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Table:
    """A table for people; the same figures stand in ``Report.data`` for machines."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Report:
    """The result of one command.

    Attributes:
        command: Name of the command.
        verdict: Outcome and reason.
        data: The figures, by section.
        tables: What a terminal shows, in order.
        notes: Declined and taken candidates with reasons.
    """

    command: str
    verdict: Verdict
    data: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    tables: tuple[Table, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def exit_code(self) -> int:
        """The process exit code that stands for the verdict."""
        return self.verdict.status.exit_code

    def to_json(self, exit_code: int | None = None) -> str:
        """The report as a JSON document (non-finite numbers become null).

        Args:
            exit_code: The exit code, where it is not the one that stands for the verdict.
        """
        document = {
            "schema": SCHEMA_VERSION,
            "onnxopt": __version__,
            "exit_code": self.exit_code if exit_code is None else exit_code,
            **asdict(self),
        }
        return json.dumps(_finite(document), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that ``to_json`` wrote.

        Raises:
            InputError: ``text`` is not such a document.
        """
        try:
            raw = cast(dict[str, Any], json.loads(text))
            if raw["schema"] != SCHEMA_VERSION:
                raise ValueError(f"schema {raw['schema']}, expected {SCHEMA_VERSION}")
            return cls(
                command=str(raw["command"]),
                verdict=Verdict(Status(raw["verdict"]["status"]), str(raw["verdict"]["reason"])),
                data=cast(dict[str, JSON], raw["data"]),
                tables=tuple(
                    Table(t["title"], tuple(t["columns"]), tuple(tuple(r) for r in t["rows"])) for t in raw["tables"]
                ),
                notes=tuple(Note(**n) for n in raw["notes"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"this is not an onnxopt report ({error})",
                where="the JSON document",
                fix="give a file written by `onnxopt --json ...` of the same version",
            ) from error


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with what was done until then.

    Attributes:
        report: The part that is complete, its verdict ``INTERRUPTED``.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in cast(list[Any], value)]
    return value
