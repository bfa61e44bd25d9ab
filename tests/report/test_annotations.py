"""Workflow commands as GitHub's runner reads them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given

from onnxopt.core.report import Report, Status
from onnxopt.errors import ModelError, printable
from onnxopt.report.annotations import append_summary, check_annotations, error_annotation, print_annotations
from tests.report.gates import HOSTILE, REPORTS, check, gate_report


def read(line: str) -> tuple[str, str, str]:
    """Level, title and message, as the runner takes the line apart: properties end at the second ``::``."""
    level, title, message = re.fullmatch(r"::(\w+) title=([^:,\n]*)::([^\n]*)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
    for code, sign in (("%3A", ":"), ("%2C", ","), ("%0A", "\n"), ("%25", "%")):
        title = title.replace(code, sign)
    return level, title, message.replace("%0A", "\n").replace("%25", "%")


def test_a_level_for_each_outcome() -> None:
    report = gate_report([check(Status.FAIL), check(Status.INCONCLUSIVE), check()])
    assert [read(line) for line in check_annotations(report)] == [
        (
            level,
            f"onnxopt gate: latency ratio {status}",
            f"the ratio came out as {status} (measured 0.991 (0.985 .. 0.997), limit 1.03)",
        )
        for level, status in (("error", "fail"), ("warning", "inconclusive"), ("notice", "pass"))
    ]


@pytest.mark.parametrize(("code", "level"), [(5, "warning"), (0, "warning"), (1, "error")])
def test_an_undecided_check_is_what_the_exit_code_makes_of_it(code: int, level: str) -> None:
    report = gate_report([check(Status.INCONCLUSIVE)])
    assert [read(line)[0] for line in check_annotations(report, exit_code=code)] == [level]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_comes_back_whole(name: str) -> None:
    (line,) = check_annotations(gate_report([check(Status.FAIL, name=name, reason=name)]))
    _, title, message = read(line)
    assert title == f"onnxopt gate: {printable(name)} fail"
    assert message.startswith(f"{printable(name)} (measured")


@given(REPORTS)
def test_any_report_gives_one_line_a_check(report: Report) -> None:
    checks = report.data["checks"]
    assert isinstance(checks, list)
    assert len([read(line) for line in check_annotations(report)]) == len(checks)


def test_an_error_before_any_check() -> None:
    line = error_annotation(ModelError("50 % of it is missing", where="a:b,c\n::error::x", fix="export again"))
    assert read(line) == (
        "error",
        "onnxopt gate",
        "50 % of it is missing\nwhere: a:b,c\n::error::x\nwhat to do: export again",
    )


@pytest.mark.parametrize(("value", "printed"), [("true", "::notice::a\n"), ("false", ""), (None, "")])
def test_only_where_github_reads_them(value: str | None, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_annotations(["::notice::a"], {} if value is None else {"GITHUB_ACTIONS": value})
    assert capsys.readouterr() == ("", printed)


def test_the_summary_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before", encoding="utf-8")
    append_summary("### mine 模", {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text(encoding="utf-8") == "before\n### mine 模\n"


@pytest.mark.parametrize("place", ["nowhere/summary.md", ".", "zero\0"])
def test_a_summary_that_cannot_be_written_is_no_reason_to_fail(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append_summary("text", {"GITHUB_STEP_SUMMARY": str(tmp_path / place)})
    assert "summary was not written" in capsys.readouterr().err


def test_without_a_summary_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    append_summary("text", {})
    append_summary("text", {"GITHUB_STEP_SUMMARY": ""})
    assert capsys.readouterr() == ("", "")
