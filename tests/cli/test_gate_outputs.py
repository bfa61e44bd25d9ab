"""The files of ``onnxopt gate`` as a CI job meets them; the limits need no clock."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command_line import Outcome
from tests.cli.sample_models import cnn, mlp, write, write_external

Invoke = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    (tmp_path / "out").mkdir()
    names = (("--junit", "j.xml"), ("--markdown", "m.md"), ("--report", "r.json"))
    return [word for option, name in names for word in (option, tmp_path / "out" / name)]


def test_all_files_agree_with_the_exit_code(
    invoke: Invoke, mlp_model: Path, mlp_npz: Path, files: list[object], tmp_path: Path
) -> None:
    limits = ["--max-size-mb", "0.001", "--min-sqnr-db", "20"]
    outcome = invoke("--json", "gate", mlp_model, "--baseline", mlp_model, "--data", mlp_npz, *limits, *files)
    assert outcome.code == 1 and outcome.document["exit_code"] == 1
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["j.xml", "m.md", "r.json"]
    assert json.loads((out / "r.json").read_text(encoding="utf-8")) == outcome.document
    suite = ET.parse(out / "j.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    assert "| size |" in (out / "m.md").read_text(encoding="utf-8")


def test_github_reads_stderr_and_stdout_stays_one_document(
    invoke: Invoke, mlp_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    outcome = invoke("gate", mlp_model, "--baseline", mlp_model, "--max-size-mb", 1, "--json")
    assert outcome.code == 0 and outcome.document["verdict"]["status"] == "pass"
    assert "::notice title=onnxopt gate%3A size pass::" in outcome.err
    assert "**PASS**" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_hostile_name_is_no_command(
    invoke: Invoke, mlp_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    name = "a]]>|`\n::error::mine\n##[error]mine.onnx"
    model = mlp_model.rename(tmp_path / name)
    junit = tmp_path / "j.xml"
    kept = invoke("gate", model, "--baseline", model, "--max-size-mb", 1, "--junit", junit)
    refused = invoke("gate", model, "--baseline", tmp_path / "\n::error::mine", "--max-size-mb", 1)
    assert (kept.code, refused.code) == (0, 3)
    lines = [line.strip() for o in (kept, refused) for line in (o.out + o.err).splitlines()]
    commands = [line for line in lines if line.startswith(("::", "##["))]
    assert [line.partition("::")[2].split(" ")[0] for line in commands] == ["notice", "error"]
    assert {p.attrib["value"] for p in ET.parse(junit).iter("property")} >= {name}


def test_bad_input_is_an_error_in_the_files_too(
    invoke: Invoke, mlp_model: Path, files: list[object], tmp_path: Path
) -> None:
    other = write(cnn(), tmp_path / "other.onnx")
    outcome = invoke("gate", other, "--baseline", mlp_model, *files)
    assert outcome.code == 3
    suite = ET.parse(tmp_path / "out" / "j.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
    assert "cannot stand in" in (tmp_path / "out" / "m.md").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "r.json").exists()


@pytest.mark.parametrize("option", ["--junit", "--markdown", "--report"])
@pytest.mark.parametrize("name", ["cand.onnx", "ref.onnx", "ref.weights", "data.npz"])
def test_inputs_stay_as_they_are(option: str, name: str, refused: Invoke, mlp_npz: Path, tmp_path: Path) -> None:
    mlp_npz.rename(tmp_path / "data.npz")
    write(mlp(), tmp_path / "cand.onnx")
    write_external(mlp(), tmp_path / "ref.onnx", "ref.weights")
    arguments = [tmp_path / "cand.onnx", "--baseline", tmp_path / "ref.onnx", "--data", tmp_path / "data.npz"]
    refused(2, ["gate", *arguments, option, tmp_path / name], "inputs are never changed", option)


def test_a_place_that_cannot_be_written(refused: Invoke, mlp_model: Path, tmp_path: Path) -> None:
    refused(3, ["gate", mlp_model, "--baseline", mlp_model, "--junit", tmp_path / "no" / "j.xml"], "--junit")
