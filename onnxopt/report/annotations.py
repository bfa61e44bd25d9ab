"""What GitHub Actions shows at a run: workflow commands for the checks, and the summary of the step.

The runner reads commands from stdout and stderr alike; stderr is used, for stdout may hold the JSON report. Escaping is
that of ``@actions/core``: ``%`` and LF in messages, ``:`` and ``,`` too in properties; CR is spelled out before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from onnxopt.core.report import Report, Status
from onnxopt.errors import OnnxoptError, printable
from onnxopt.report.checks import checks_of, counts_as, interval_text, limit_text

__all__ = ["append_summary", "check_annotations", "error_annotation", "print_annotations"]

LEVELS = {Status.FAIL: "error", Status.INCONCLUSIVE: "warning", Status.PASS: "notice"}


def check_annotations(report: Report, *, exit_code: int | None = None) -> Iterator[str]:
    """One workflow command a check: an error, a warning (undecided), or a notice (passed).

    Args:
        report: What a gate returned.
        exit_code: The exit code, where it is not the one that stands for the verdict.
    """
    for check in checks_of(report):
        level = LEVELS[counts_as(check, report, exit_code)]
        message = f"{check.reason} (measured {interval_text(check)}, limit {limit_text(check)})"
        yield _command(level, f"onnxopt gate: {check.name} {check.status.value}", message)


def error_annotation(error: OnnxoptError) -> str:
    """The workflow command for a gate that could not check anything."""
    return _command("error", "onnxopt gate", f"{error.what}\nwhere: {error.where}\nwhat to do: {error.fix}")


def print_annotations(lines: Iterable[str], environ: Mapping[str, str]) -> None:
    """Prints workflow commands to stderr where GitHub Actions (or a runner like it) reads them."""
    if environ.get("GITHUB_ACTIONS") == "true":
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def append_summary(text: str, environ: Mapping[str, str]) -> None:
    """Appends Markdown to the summary of the step, where there is one; a gate never fails because of it."""
    path = environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"\n{text}\n")
        except (OSError, ValueError) as error:
            print(f"note: the step summary was not written: {error}", file=sys.stderr)


def _command(level: str, title: str, message: str) -> str:
    return f"::{level} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
