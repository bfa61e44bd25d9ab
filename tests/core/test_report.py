"""Reports are plain data: JSON there and back, exit codes, and names that cannot steer a terminal."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.core.report import Note, Report, Status, Table, Verdict
from onnxopt.errors import InputError, nearest, one_line, printable

CELLS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TABLES = st.builds(
    Table, st.text(), st.tuples(st.text(), st.text()), st.lists(st.tuples(CELLS, CELLS), max_size=3).map(tuple)
)
REPORTS = st.builds(
    Report,
    command=st.text(),
    verdict=st.builds(Verdict, st.sampled_from(Status), st.text()),
    data=st.dictionaries(st.text(), st.recursive(CELLS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)),
    tables=st.lists(TABLES, max_size=2).map(tuple),
    notes=st.lists(st.builds(Note, st.text(), st.text(), st.text()), max_size=3).map(tuple),
)


@given(REPORTS)
def test_a_report_survives_json(report: Report) -> None:
    text = report.to_json()
    assert text.isascii()
    assert Report.from_json(text) == report
    assert json.loads(text)["exit_code"] == report.exit_code


def test_numbers_that_json_lacks_become_null() -> None:
    report = Report(
        "c", Verdict(Status.PASS, "r"), {"a": [math.nan, math.inf, 1.5]}, (Table("t", ("x",), ((-math.inf,),)),)
    )
    read = Report.from_json(report.to_json())
    assert read.data == {"a": [None, None, 1.5]} and read.tables[0].rows == ((None,),)


def test_the_exit_code_in_json_may_be_another_than_the_verdicts() -> None:
    report = Report("c", Verdict(Status.INCONCLUSIVE, "r"))
    assert json.loads(report.to_json(0))["exit_code"] == 0 and json.loads(report.to_json())["exit_code"] == 5


@pytest.mark.parametrize(("status", "code"), [("pass", 0), ("fail", 1), ("unchanged", 4), ("inconclusive", 5)])
def test_exit_codes(status: str, code: int) -> None:
    assert Report("c", Verdict(Status(status), "r")).exit_code == code


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '{"schema": 1}', '{"schema": 2}', '{"schema": 1, "command": 1}']
)
def test_other_documents_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="not an onnxopt report"):
        Report.from_json(text)


@given(st.text(st.characters(exclude_categories=())))
def test_printable_text_holds_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    shown.encode()
    if not any(ord(c) < 32 or 127 <= ord(c) < 160 or "\ud800" <= c < "\ue000" or c in "\ufffe\uffff" for c in text):
        assert shown == text


def test_unprintable_characters_are_spelled() -> None:
    assert printable("\x00\r\x9f\udcff\uffff\n\t") == "\\x00\\x0d\\x9f\\udcff\\uffff\n\t"


@given(st.text(st.characters(exclude_categories=())))
def test_one_line_is_one_line(text: str) -> None:
    assert len((one_line(text) or "-").split("\n")) == 1


def test_the_nearest_names() -> None:
    assert nearest("statik", ["static", "dynamic"]) == "did you mean 'static'?"
    assert nearest("zzz", ["b", "a"]) == "known: 'a', 'b'"
    assert nearest("zzz", []) == "there is none to choose from"
    assert nearest("zzz", map(str, range(20))).endswith(", ...")
