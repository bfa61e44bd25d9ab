"""The checks of a gate's report, and how people read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from onnxopt.commands.checks import Check
from onnxopt.core.report import JSON, Report, Status
from onnxopt.errors import printable
from onnxopt.report.terminal import cell_text

__all__ = ["checks_of", "checks_text", "counts_as", "interval_text", "limit_text", "setting_text"]


def checks_of(report: Report) -> tuple[Check, ...]:
    """What the gate checked, in its order."""
    found = cast(list[dict[str, Any]], report.data.get("checks", []))
    return tuple(replace(Check(**check), status=Status(check["status"])) for check in found)


def counts_as(check: Check, report: Report, exit_code: int | None) -> Status:
    """The outcome of a check in a run that ends with ``exit_code``: undecided is failed where that code says so."""
    undecided = check.status is Status.INCONCLUSIVE and report.verdict.status is Status.INCONCLUSIVE
    return Status.FAIL if undecided and exit_code == Status.FAIL.exit_code else check.status


def checks_text(report: Report) -> str:
    """The checks as plain text, one a line, in columns."""
    checks = checks_of(report)
    rows = [("check", "measured", "limit", "result")]
    rows += [(printable(c.name), interval_text(c), limit_text(c), c.status.value.upper()) for c in checks]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def interval_text(check: Check) -> str:
    """The measured value and its interval: ``0.991 (0.985 .. 0.997)``, ``12.4 ms``, ``0.001 (at most 0.0045)``."""
    value = f"{cell_text(check.measured)} {check.unit if check.measured is not None else ''}".rstrip()
    if check.low is not None and check.high is not None:
        return f"{value} ({cell_text(check.low)} .. {cell_text(check.high)})"
    if check.high is not None:
        return f"{value} (at most {cell_text(check.high)})"
    return value if check.low is None else f"{value} (at least {cell_text(check.low)})"


def limit_text(check: Check) -> str:
    """The limit with its unit."""
    return f"{cell_text(check.limit)} {check.unit}".rstrip()


def setting_text(value: JSON) -> str:
    """One value of the environment block."""
    if isinstance(value, list):
        return ", ".join(setting_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={setting_text(item)}" for key, item in value.items())
    return "unknown" if value is None else cell_text(value) if isinstance(value, bool) else str(value)
