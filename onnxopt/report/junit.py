"""JUnit XML: one test case a check, in the dialect that Jenkins, GitLab and the GitHub actions for it read.

It keeps to the elements and attributes of Jenkins' ``junit-10.xsd``. Times are left out: a check takes none.
``printable`` spells all that XML 1.0 (section 2.2) does not allow in a document.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from onnxopt import __version__
from onnxopt.core.report import JSON, Report, Status
from onnxopt.errors import printable
from onnxopt.report.checks import checks_of, counts_as, interval_text, limit_text, setting_text

__all__ = ["junit", "junit_error"]

SECTIONS = ("candidate", "baseline", "environment")


def junit(report: Report, *, exit_code: int | None = None) -> str:
    """The checks of a gate's report as JUnit XML.

    Args:
        report: What a gate returned.
        exit_code: The exit code, where it is not the one that stands for the verdict: undecided checks are failures
            when it is 1, else skipped.
    """
    code = report.exit_code if exit_code is None else exit_code
    checks = [(check, counts_as(check, report, exit_code)) for check in checks_of(report)]
    outcomes = [outcome for _, outcome in checks]
    suite, root = _suite(
        tests=len(checks), failures=outcomes.count(Status.FAIL), skipped=outcomes.count(Status.INCONCLUSIVE)
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report, code):
        ET.SubElement(properties, "property", name=printable(name), value=printable(value))
    classname = _classname(report)
    for check, outcome in checks:
        case = ET.SubElement(suite, "testcase", classname=classname, name=printable(check.name))
        measured = f"measured {interval_text(check)}, limit {limit_text(check)}"
        if outcome is Status.FAIL:
            failure = ET.SubElement(case, "failure", type=check.status.value, message=printable(check.reason))
            failure.text = printable(measured)
        elif outcome is Status.INCONCLUSIVE:
            ET.SubElement(case, "skipped", type=check.status.value, message=printable(check.reason))
        ET.SubElement(case, "system-out").text = printable(f"{check.reason}\n{measured}")
    return _text(root)


def junit_error(what: str, where: str, fix: str) -> str:
    """A gate that could not check anything, as JUnit XML: one test case with an error in it."""
    suite, root = _suite(tests=1, errors=1)
    case = ET.SubElement(suite, "testcase", classname="onnxopt.gate", name="gate")
    error = ET.SubElement(case, "error", type="error", message=printable(what))
    error.text = printable(f"{what}\nwhere: {where}\nwhat to do: {fix}")
    return _text(root)


def _suite(*, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> tuple[ET.Element, ET.Element]:
    """The one suite, and the root that holds it."""
    counts = {"tests": str(tests), "failures": str(failures), "errors": str(errors)}
    root = ET.Element("testsuites", {"name": "onnxopt", **counts})
    return ET.SubElement(root, "testsuite", {"name": "onnxopt gate", **counts, "skipped": str(skipped)}), root


def _properties(report: Report, exit_code: int) -> Iterator[tuple[str, str]]:
    yield "onnxopt", __version__
    yield "verdict", report.verdict.status.value
    yield "reason", report.verdict.reason
    yield "exit_code", str(exit_code)
    for section in SECTIONS:
        values: JSON = report.data.get(section)
        if isinstance(values, dict):
            for key, value in values.items():
                yield f"{section}.{key}", setting_text(value)


def _classname(report: Report) -> str:
    """Another one for each candidate, so that several gates of a pipeline stay apart; a dot would begin a package."""
    candidate: JSON = report.data.get("candidate")
    file = str(candidate.get("file")) if isinstance(candidate, dict) else "gate"
    return "onnxopt.gate." + printable(Path(file).stem).replace(".", "_")


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
