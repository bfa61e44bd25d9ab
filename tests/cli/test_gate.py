"""``gate``: limits kept, broken and undecided, and baselines that cannot be used."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxopt.core.io import load, save
from onnxopt.measurement import process
from tests.cli.command_line import Outcome
from tests.cli.sample_models import normal, parsed, write

WIDTH = 256
Invoke = Callable[..., Outcome]
ONE = ("--threads", 1)


def chain(layers: int, path: Path, *, offset: float = 0.0, inner: str = "w") -> Path:
    """A model ``x -> y`` of so many equal layers; ``offset`` is added to the result."""
    steps = [f"a{i} = MatMul (h{i}, {inner}) h{i + 1} = Relu (a{i})" for i in range(layers)]
    body = f"h0 = Identity (x) {' '.join(steps)} y = Add (h{layers}, offset)"
    weight = np.abs(normal(WIDTH, WIDTH)) / WIDTH
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, {WIDTH}] x) => (float[N, {WIDTH}] y) {{ {body} }}'
    return write(parsed(text, {inner: weight.astype(np.float32), "offset": np.array([offset], np.float32)}), path)


@pytest.fixture
def light(tmp_path: Path) -> Path:
    return chain(2, tmp_path / "light.onnx")


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    return chain(8, tmp_path / "heavy.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=normal(64, WIDTH))
    return path


def found(outcome: Outcome) -> dict[str, dict[str, object]]:
    """The checks of a JSON report by name."""
    return {check["name"]: check for check in json.loads(outcome.out)["data"]["checks"]}


def test_a_model_against_itself_keeps_every_limit(invoke: Invoke, light: Path, data: Path) -> None:
    limits = ["--max-latency-ratio", 2, "--max-drop", 0.001, "--min-sqnr-db", 40, "--max-size-mb", 1]
    limits += ["--max-memory-ratio", 1.5, "--max-cold-start-ms", 60000, "--max-p50-ms", 5000, "--max-p99-ms", 9000]
    outcome = invoke("gate", light, "--baseline", light, "--data", data, *limits, *ONE, "--json")
    assert outcome.code == 0, outcome
    checks = found(outcome)
    assert len(checks) == 8
    assert {check["status"] for check in checks.values()} == {"pass"}
    report = json.loads(outcome.out)
    assert report["data"]["noise_floor"]["processes"] == 3
    assert report["data"]["environment"]["threads"] == 1
    assert report["data"]["candidate"]["sha256"] == report["data"]["baseline"]["sha256"]


def test_four_times_the_work_breaks_the_default_limit(invoke: Invoke, light: Path, heavy: Path) -> None:
    outcome = invoke("gate", heavy, "--baseline", light, *ONE)
    assert outcome.code == 1, outcome
    assert outcome.out.startswith("FAIL heavy.onnx: latency ratio to light.onnx")
    assert "limit 1.03" in outcome.out
    assert "BROKEN" in outcome.out
    assert invoke("gate", light, "--baseline", heavy, "--max-latency-ratio", 0.9, *ONE).code == 0


def test_each_limit_breaks_by_itself(invoke: Invoke, light: Path, tmp_path: Path, data: Path) -> None:
    wrong = chain(2, tmp_path / "wrong.onnx", offset=-100.0)
    for option, limit, name in [
        ("--max-size-mb", 0.1, "size"),
        ("--max-memory-ratio", 0.01, "memory ratio"),
        ("--max-cold-start-ms", 0.001, "cold start"),
        ("--max-p50-ms", 0.0001, "p50"),
        ("--max-p99-ms", 0.0001, "p99"),
        ("--min-sqnr-db", 20, "SQNR"),
        ("--max-drop", 0.01, "accuracy drop"),
    ]:
        outcome = invoke(
            "gate", wrong, "--baseline", light, "--data", data, "--metric", "cosine", option, limit, *ONE, "--json"
        )
        assert outcome.code == 1, (option, outcome)
        assert found(outcome)[name]["status"] == "fail"


def test_too_few_samples_leave_the_accuracy_undecided(invoke: Invoke, light: Path, tmp_path: Path) -> None:
    close, data = chain(2, tmp_path / "close.onnx", offset=1e-6), tmp_path / "few.npz"
    np.savez(data, x=normal(20, WIDTH), labels=np.zeros(20, np.int64))
    arguments = ["gate", close, "--baseline", light, "--data", data, "--metric", "top1", "--max-drop", 0.01, *ONE]
    outcome = invoke(*arguments)
    assert outcome.code == 5, outcome
    assert "more than 20 samples" in outcome.out
    assert invoke(*arguments, "--inconclusive", "pass").code == 0
    assert invoke(*arguments, "--inconclusive", "fail").code == 1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (["--max-p99-ms", 1, "--max-p50-ms", 2], ("contradict", "p99", "p50")),
        (["--max-cold-start-ms", 1, "--max-p99-ms", 2], ("contradict", "cold start")),
        (["--max-latency-ratio", 0], ("--max-latency-ratio",)),
        (["--max-latency-ratio", "nan"], ("--max-latency-ratio", "nan")),
        (["--max-drop", -0.1], ("--max-drop",)),
        (["--max-size-mb", "inf"], ("--max-size-mb",)),
    ],
)
def test_limits_that_make_no_sense(refused: Invoke, light: Path, limits: list[object], words: tuple[str, ...]) -> None:
    refused(2, ["gate", light, "--baseline", light, *limits], *words)


def test_a_baseline_is_required_and_must_exist(refused: Invoke, light: Path, tmp_path: Path) -> None:
    refused(2, ["gate", light], "--baseline")
    refused(3, ["gate", light, "--baseline", tmp_path / "none.onnx"], "none.onnx")
    refused(3, ["gate", light, "--baseline", tmp_path / "none.json"], "none.json")
    refused(3, ["gate", light, "--baseline", tmp_path], "baseline")


def test_a_baseline_with_another_interface(refused: Invoke, light: Path, mlp_model: Path) -> None:
    refused(3, ["gate", light, "--baseline", mlp_model], "cannot stand in")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 99, "command": "bench"}', "\x00\x01", '{"a": NaN}']
)
def test_a_damaged_baseline(refused: Invoke, light: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    refused(3, ["gate", light, "--baseline", path], "baseline.json", "onnxopt bench")


def test_a_worker_that_is_killed_is_reported(
    invoke: Invoke, light: Path, heavy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = process._call

    def killed(command: list[str]) -> tuple[int, str]:
        return call(["sh", "-c", f"kill -{signal.SIGSEGV.value} $$", *command])

    monkeypatch.setattr(process, "_call", killed)
    outcome = invoke("gate", heavy, "--baseline", light, *ONE)
    assert outcome.code == 3
    assert "SIGSEGV" in outcome.err
    assert "light.onnx" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.fixture
def baseline(invoke: Invoke, light: Path, data: Path, tmp_path: Path) -> Path:
    """A stored baseline in a folder of its own."""
    folder = tmp_path / "ci"
    folder.mkdir()
    path = folder / "baseline.json"
    made = invoke("bench", light, "--data", data, "--report", path, "--seconds", 1, *ONE)
    assert made.code == 0, made
    return path


def test_a_stored_baseline(invoke: Invoke, light: Path, heavy: Path, data: Path, baseline: Path) -> None:
    given = ["--baseline", baseline, "--data", data, *ONE, "--json"]
    kept = invoke("gate", light, *given, "--max-latency-ratio", 1.8)
    assert kept.code == 0, kept
    broken = invoke("gate", heavy, *given)
    assert broken.code == 1, broken
    assert any("probe" in note["reason"] for note in json.loads(broken.out)["notes"])
    accuracy = invoke("gate", light, *given, "--max-drop", 0.1)
    assert accuracy.code == 2
    assert "accuracy" in accuracy.err


def test_a_stored_baseline_refuses_what_it_was_not_measured_on(
    refused: Invoke, light: Path, baseline: Path, data: Path, mlp_model: Path, tmp_path: Path
) -> None:
    given = ["--baseline", baseline, "--data", data]
    refused(3, ["gate", light, *given, "--threads", 2], "other conditions", "threads 1 then, 2 now", "--rebaseline")
    refused(3, ["gate", light, "--baseline", baseline, *ONE], "other data")
    refused(3, ["gate", mlp_model, *given, *ONE], "another model", "inputs")
    stored = json.loads(baseline.read_text())
    stored["data"]["environment"]["cpu"] = "Another CPU"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(stored))
    refused(3, ["gate", light, "--baseline", other, "--data", data, *ONE], "Another CPU then")
    stored["data"]["rows"][0]["anchor"] = {"to_self": [0.0]}
    other.write_text(json.dumps(stored))
    refused(3, ["gate", light, "--baseline", other, "--data", data, *ONE], "damaged", "onnxopt bench")


def test_the_reference_beside_a_stored_baseline_is_measured_in_pairs(
    invoke: Invoke, refused: Invoke, light: Path, heavy: Path, baseline: Path, data: Path
) -> None:
    beside = baseline.parent / light.name
    os.link(light, beside)
    outcome = invoke("gate", heavy, "--baseline", baseline, "--data", data, *ONE, "--json")
    assert outcome.code == 1, outcome
    assert any("in pairs" in note["reason"] for note in json.loads(outcome.out)["notes"])
    beside.unlink()
    save(load(heavy), beside)
    refused(3, ["gate", heavy, "--baseline", baseline, "--data", data, *ONE], "another model", "light.onnx")


def test_a_candidate_that_names_another_origin(
    invoke: Invoke, refused: Invoke, light: Path, heavy: Path, baseline: Path, data: Path, tmp_path: Path
) -> None:
    model = load(light)
    model.metadata_props["onnxopt"] = json.dumps({"source_sha256": "0" * 64})
    save(model, tmp_path / "child.onnx")
    refused(3, ["gate", tmp_path / "child.onnx", "--baseline", baseline, "--data", data, *ONE], "another model", "000")


def test_rebaseline_measures_the_reference_again(
    invoke: Invoke, refused: Invoke, light: Path, baseline: Path, data: Path
) -> None:
    stored = json.loads(baseline.read_text())
    stored["data"]["environment"]["cpu"] = "Another CPU"
    baseline.write_text(json.dumps(stored))
    arguments = ["gate", light, "--baseline", baseline, "--data", data, *ONE, "--rebaseline", "--max-latency-ratio", 2]
    refused(3, arguments, "light.onnx", "beside")
    os.link(light, baseline.parent / light.name)
    assert invoke(*arguments).code == 0
    assert json.loads(baseline.read_text())["data"]["environment"]["cpu"] != "Another CPU"
    refused(2, ["gate", light, "--baseline", light, "--rebaseline"], "--rebaseline")
