"""JUnit XML: what the readers of it accept, and nothing that a name could make of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given

from onnxopt.core.report import Report, Status
from onnxopt.errors import printable
from onnxopt.report.junit import junit, junit_error
from tests.report.gates import HOSTILE, REPORTS, TEXTS, check, gate_report

COUNTS = {"tests", "failures", "errors"}
SCHEMA = {
    "testsuites": ({"name"} | COUNTS, {"testsuite"}),
    "testsuite": ({"name", "skipped"} | COUNTS, {"properties", "testcase"}),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname"}, {"skipped", "error", "failure", "system-out"}),
    "skipped": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "failure": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}
"""The part of Jenkins' junit-10.xsd that is used: attributes (all of them written) and children of each element."""
FAIL, OPEN, PASS = check(Status.FAIL, name="p99"), check(Status.INCONCLUSIVE, name="drop"), check()


def parsed(text: str) -> ET.Element:
    """The suite, after a look at everything that the schema says."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites" and len(root) == 1
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= children
    suite = root[0]
    for holder in (root, suite):
        assert int(holder.attrib["tests"]) == len(suite.findall("testcase"))
        assert int(holder.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(holder.attrib["errors"]) == len(suite.findall("testcase/error"))
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
    return suite


def outcomes(suite: ET.Element) -> dict[str, str]:
    return {
        case.attrib["name"]: next(
            (tag for tag in ("failure", "skipped", "error") if case.find(tag) is not None), "pass"
        )
        for case in suite.findall("testcase")
    }


def test_one_case_a_check() -> None:
    suite = parsed(junit(gate_report([FAIL, OPEN, PASS], file="m.v2.onnx")))
    assert outcomes(suite) == {"p99": "failure", "drop": "skipped", "latency ratio": "pass"}
    failure = suite.find("testcase/failure")
    assert failure is not None and failure.attrib["message"] == FAIL.reason
    assert {case.attrib["classname"] for case in suite.findall("testcase")} == {"onnxopt.gate.m_v2"}
    assert failure.text == "measured 0.991 (0.985 .. 0.997), limit 1.03"


@pytest.mark.parametrize(("code", "outcome"), [(None, "skipped"), (5, "skipped"), (0, "skipped"), (1, "failure")])
def test_an_undecided_check_is_what_the_exit_code_makes_of_it(code: int | None, outcome: str) -> None:
    suite = parsed(junit(gate_report([OPEN, PASS]), exit_code=code))
    assert outcomes(suite) == {"drop": outcome, "latency ratio": "pass"}


def test_an_undecided_check_beside_a_broken_one_is_skipped() -> None:
    assert outcomes(parsed(junit(gate_report([FAIL, OPEN]), exit_code=1))) == {"p99": "failure", "drop": "skipped"}


def test_models_and_environment_are_properties() -> None:
    suite = parsed(junit(gate_report([PASS]), exit_code=0))
    found = {p.attrib["name"]: p.attrib["value"] for p in suite.findall("properties/property")}
    assert found["environment.isa"] == "avx2, avx512f" and found["environment.cgroup_quota"] == "unknown"
    assert found["candidate.sha256"] == "ab" * 32 and found["baseline.file"] == "ref.onnx"
    assert found["verdict"] == "pass" and found["exit_code"] == "0"


@given(REPORTS)
def test_any_name_stays_in_its_place(report: Report) -> None:
    checks = report.data["checks"]
    assert isinstance(checks, list)
    assert len(parsed(junit(report)).findall("testcase")) == len(checks)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_still_readable(name: str) -> None:
    suite = parsed(junit(gate_report([check(Status.FAIL, name=name, reason=name)])))
    case = suite.find("testcase")
    assert case is not None
    assert case.attrib["name"] == printable(name)


def test_an_error_before_any_check() -> None:
    suite = parsed(junit_error("it is no model", "a]]>b.onnx", "export it\x1b[0m again"))
    assert outcomes(suite) == {"gate": "error"}
    error = suite.find("testcase/error")
    assert error is not None and error.text == (
        "it is no model\nwhere: a]]>b.onnx\nwhat to do: export it\\x1b[0m again"
    )


@given(TEXTS, TEXTS, TEXTS)
def test_any_error_is_legal(what: str, where: str, fix: str) -> None:
    assert outcomes(parsed(junit_error(what, where, fix))) == {"gate": "error"}
