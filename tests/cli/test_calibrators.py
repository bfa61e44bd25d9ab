"""``quantize --calibrator`` and ``--workers``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.cli.command_line import Outcome

Invoke = Callable[..., Outcome]
NAMES = ("minmax", "ema", "percentile", "percentile-99.9", "entropy", "mse")


def recipe(path: Path) -> str:
    """The calibrator that the stamp of a written model names."""
    stamp = json.loads(next(p.value for p in onnx.load(path).metadata_props if p.key == "onnxopt"))
    return stamp["recipe"][-1]["calibrator"]


@pytest.mark.parametrize("name", NAMES)
def test_a_named_calibrator_is_used(
    name: str, cnn_model: Path, cnn_npz: Path, tmp_path, invoke: Invoke, no_clock
) -> None:
    output = tmp_path / "o.onnx"
    arguments = ["quantize", cnn_model, "-o", output, "--data", cnn_npz, "--mode", "static", "--max-drop", 1]
    outcome = invoke("--json", *arguments, "--calibrator", name)
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["data"]["calibrators"] == {}
    assert recipe(output) == name


def test_auto_tries_all_and_takes_one_that_is_not_worse(cnn_model, cnn_npz, tmp_path, invoke: Invoke, no_clock) -> None:
    output = tmp_path / "o.onnx"
    outcome = invoke("--json", "quantize", cnn_model, "-o", output, "--data", cnn_npz, "--max-drop", 1)
    assert outcome.code == 0, outcome
    tried = json.loads(outcome.out)["data"]["calibrators"]
    assert set(tried) == set(NAMES)
    static = [c for c in json.loads(outcome.out)["data"]["candidates"] if c["name"].startswith("static")]
    assert static
    if json.loads(outcome.out)["data"]["chosen"].startswith("static"):
        assert tried[recipe(output)] > max(tried.values()) - 1


def test_workers_do_not_change_a_byte(cnn_model, cnn_npz, tmp_path, invoke: Invoke, no_clock) -> None:
    made = []
    for workers in (1, 2):
        output = tmp_path / f"{workers}.onnx"
        arguments = ["--data", cnn_npz, "--mode", "static", "--max-drop", 1, "--workers", workers]
        assert invoke("quantize", cnn_model, "-o", output, *arguments).code == 0
        made.append(output.read_bytes())
    assert made[0] == made[1]


def test_a_calibrator_without_calibration_is_wrong_usage(mlp_model, mlp_npz, tmp_path, refused: Invoke) -> None:
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", "dynamic"]
    refused(2, [*arguments, "--calibrator", "mse"], "calibrates nothing")
    refused(2, [*arguments, "--calibrator", "mle"])
