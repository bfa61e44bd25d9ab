"""Markdown for a comment at a pull request: the verdict, the checks, and the environment folded away.

Names and reasons come from models and files, so whatever GitHub or GitLab would act on is spelled as a character
reference, which by CommonMark section 2.5 is never taken as markup. They never begin a line.
"""

from __future__ import annotations

import re

from onnxopt.core.report import JSON, Report
from onnxopt.errors import OnnxoptError, printable
from onnxopt.report.checks import checks_of, interval_text, limit_text, setting_text

__all__ = ["markdown", "markdown_error"]

MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Underscores inside a word are no markup, and names are full of them."""
REFERENCE = re.compile(r"[@#!$~&%](?=\w)|GH-(?=\d)|(?<=\w):(?=//)|(?<=www)\.")
"""What would call a person, name an issue or make a link, however it is spelled: split by a zero-width space."""
SECTIONS = ("candidate", "baseline", "environment")


def markdown(report: Report) -> str:
    """The report of a gate as Markdown."""
    verdict = report.verdict
    lines = ["### onnxopt gate", "", f"**{verdict.status.value.upper()}** {_literal(verdict.reason)}", ""]
    checks = checks_of(report)
    if checks:
        lines += ["| check | measured | limit | result |", "|---|---|---|---|"]
        lines += [
            _row(check.name, interval_text(check), limit_text(check), check.status.value.upper()) for check in checks
        ]
        lines.append("")
    lines += ["<details><summary>Models and environment</summary>", "", "| | |", "|---|---|"]
    for section in SECTIONS:
        values: JSON = report.data.get(section)
        if isinstance(values, dict):
            prefix = "" if section == "environment" else f"{section} "
            lines += [_row(f"{prefix}{key}", setting_text(value)) for key, value in values.items()]
    return "\n".join([*lines, "", "</details>", ""])


def markdown_error(error: OnnxoptError) -> str:
    """A gate that could not check anything, as Markdown."""
    parts = (
        f"**ERROR** {_literal(error.what)}",
        f"where: {_literal(error.where)}",
        f"what to do: {_literal(error.fix)}",
    )
    return "\n\n".join(["### onnxopt gate", *parts]) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(_literal(cell) for cell in cells) + " |"


def _literal(text: str) -> str:
    """``text`` on one line, shown as it is."""
    line = " ".join(printable(text).split())
    line = REFERENCE.sub(lambda found: f"{found[0]}\u200b", line)
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", line)
