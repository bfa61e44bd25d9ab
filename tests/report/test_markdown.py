"""Markdown as a CommonMark parser with tables reads it: the same table for any name, and the name in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from markdown_it import MarkdownIt

from onnxopt.core.report import Report, Status
from onnxopt.errors import ModelError, printable
from onnxopt.report.markdown import markdown, markdown_error
from tests.report.gates import HOSTILE, REPORTS, TEXTS, check, gate_report

MARKUP = {"h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
ZERO_WIDTH = "\u200b"


class Page(HTMLParser):
    """The rendered page: its tags, and the text of its cells and paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.paragraphs: list[str] = []
        self.place: list[str] | None = None
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.place = {"td": self.cells, "th": self.cells, "p": self.paragraphs}.get(tag, self.place)
        if tag in ("td", "th", "p") and self.place is not None:
            self.place.append("")

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "p"):
            self.place = None

    def handle_data(self, data: str) -> None:
        if self.place is not None:
            self.place[-1] += data


def shown(name: str) -> str:
    """A name as people are to see it: on one line, control characters spelled."""
    return " ".join(printable(name).split())


def test_verdict_checks_environment() -> None:
    page = Page(markdown(gate_report([check(Status.FAIL, name="p99", unit="ms"), check(Status.INCONCLUSIVE)])))
    assert page.paragraphs[0] == "FAIL m.onnx: the ratio came out as fail"
    assert page.cells[4:8] == ["p99", "0.991 ms (0.985 .. 0.997)", "1.03 ms", "FAIL"]
    assert page.cells[11] == "INCONCLUSIVE"
    assert page.tags.count("details") == 1
    assert page.cells[page.cells.index("isa") + 1] == "avx2, avx512f"
    assert page.cells[page.cells.index("candidate sha256") + 1] == "ab" * 32


@given(REPORTS)
def test_any_report_has_the_same_layout(report: Report) -> None:
    text = markdown(report)
    text.encode()
    page = Page(text)
    checks, environment = report.data["checks"], report.data["environment"]
    assert isinstance(checks, list) and isinstance(environment, dict)
    assert set(page.tags) <= MARKUP
    assert page.tags.count("td") == 4 * len(checks) + 2 * (len(environment) + 5)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    page = Page(markdown(gate_report([check(name=name, reason=name)])))
    assert page.cells[4].replace(ZERO_WIDTH, "") == shown(name)
    assert page.paragraphs[0].replace(ZERO_WIDTH, "") == f"PASS m.onnx: {shown(name)}".strip()


@pytest.mark.parametrize("name", HOSTILE)
def test_nobody_is_called_and_nothing_is_linked(name: str) -> None:
    text = markdown(gate_report([check(name=name, reason=name)], file=name))
    decoded = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), text)
    assert not re.search(r"[@!]\w|(?<!&)#\d|GH-\d|\w://|www\.\w", decoded)


def test_no_line_begins_with_a_name() -> None:
    for name in HOSTILE:
        for line in markdown(gate_report([check(name=name, reason=name)], file=name)).splitlines():
            assert re.match(r"$|### |\*\*|\||</?details>", line), line


@given(TEXTS, TEXTS, TEXTS)
def test_an_error_before_any_check(what: str, where: str, fix: str) -> None:
    page = Page(markdown_error(ModelError(what, where=where, fix=fix)))
    assert set(page.tags) <= MARKUP
    assert [p.replace(ZERO_WIDTH, "") for p in page.paragraphs] == [
        f"ERROR {shown(what)}".strip(),
        f"where: {shown(where)}".strip(),
        f"what to do: {shown(fix)}".strip(),
    ]
