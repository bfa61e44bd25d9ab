"""The files of a gate: refused before the measurement, complete or not at all after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxopt.core.report import Report, Status
from onnxopt.errors import ModelError, OutputError, UsageError
from onnxopt.report.outputs import check_outputs, write_error, write_outputs
from tests.cli.sample_models import mlp, write_external
from tests.report.gates import HOSTILE, check, gate_report

REPORT = gate_report([check(Status.INCONCLUSIVE, name=name, reason=name) for name in HOSTILE])


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def test_every_file_that_was_asked_for(tmp_path: Path) -> None:
    paths = tmp_path / "j.xml", tmp_path / "m.md", tmp_path / "r.json"
    write_outputs(REPORT, junit_path=paths[0], markdown_path=paths[1], report_path=paths[2], exit_code=1)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert paths[0].read_bytes().startswith(b"<?xml") and b'failures="16"' in paths[0].read_bytes()
    assert paths[1].read_text(encoding="utf-8").startswith("### onnxopt gate")
    text = paths[2].read_text(encoding="utf-8")
    assert json.loads(text)["exit_code"] == 1 and Report.from_json(text).verdict == REPORT.verdict


def test_nothing_asked_for_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_outputs(REPORT, junit_path=None, markdown_path=None, report_path=None, exit_code=5)
    assert list(tmp_path.iterdir()) == []


def test_one_file_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    good = tmp_path / "m.md"
    with pytest.raises(OutputError) as caught:
        write_outputs(
            REPORT, junit_path=tmp_path / "no" / "j.xml", markdown_path=good, report_path=tmp_path, exit_code=5
        )
    assert "--junit" in caught.value.fix and "/no" in caught.value.where
    assert good.exists() and list(tmp_path.iterdir()) == [good]


def test_github_gets_annotations_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    write_outputs(REPORT, junit_path=None, markdown_path=None, report_path=None, exit_code=5)
    captured = capsys.readouterr()
    lines = captured.err.split("\n")[:-1]
    assert captured.out == "" and len(lines) == len(HOSTILE)
    assert all(line.startswith("::warning title=onnxopt gate") for line in lines)
    assert "### onnxopt gate" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_an_error_reaches_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    error = ModelError("it is no model", where="m.onnx", fix="export it again")
    write_error(error, junit_path=tmp_path / "j.xml", markdown_path=tmp_path / "m.md")
    assert b'errors="1"' in (tmp_path / "j.xml").read_bytes()
    for file in ("m.md", "summary.md"):
        assert "**ERROR** it is no model" in (tmp_path / file).read_text(encoding="utf-8")
    assert capsys.readouterr().err.startswith("::error title=onnxopt gate::it is no model%0Awhere")


def check_places(tmp_path: Path, junit: str | None, markdown: str | None, report: str | None, *inputs: str) -> None:
    paths = [None if name is None else tmp_path / name for name in (junit, markdown, report)]
    check_outputs(
        junit_path=paths[0],
        markdown_path=paths[1],
        report_path=paths[2],
        models=[tmp_path / name for name in inputs],
        others=[None, str(tmp_path / "data.npz")],
    )


def test_good_places_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "old.xml").write_text("old", encoding="utf-8")
    check_places(tmp_path, "old.xml", "m.md", None, "ref.onnx", "m.onnx")
    check_places(tmp_path, None, None, None, "ref.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["old.xml"]


@pytest.mark.parametrize("spelling", ["ref.onnx", "./ref.onnx", "link", "folder/ref.onnx", "ref.data", "data.npz"])
@pytest.mark.parametrize("option", [0, 1, 2])
def test_an_input_is_never_an_output(spelling: str, option: int, tmp_path: Path) -> None:
    write_external(mlp(), tmp_path / "ref.onnx", "ref.data")
    (tmp_path / "link").symlink_to("ref.onnx")
    (tmp_path / "folder").symlink_to(".")
    outputs: list[str | None] = [None, None, None]
    outputs[option] = spelling
    with pytest.raises(UsageError, match="inputs are never changed"):
        check_places(tmp_path, *outputs, "m.onnx", "ref.onnx")


def test_the_same_file_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same file as that of --junit") as caught:
        check_places(tmp_path, "a", "b", "./a")
    assert "--report" in caught.value.where


@pytest.mark.parametrize("option", ["--junit", "--markdown", "--report"])
@pytest.mark.parametrize(("name", "words"), [("", "folder"), ("no/x", "does not exist"), ("/dev/null", "special file")])
def test_places_that_cannot_be_written(name: str, words: str, option: str, tmp_path: Path) -> None:
    outputs = [name if option == other else None for other in ("--junit", "--markdown", "--report")]
    with pytest.raises(OutputError, match=words) as caught:
        check_places(tmp_path, *outputs)
    assert option in caught.value.fix and "-o" not in caught.value.fix.split()
