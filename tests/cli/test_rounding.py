"""``quantize --rounding``."""

from __future__ import annotations

import json

import onnx


def test_rounding_is_judged_reported_and_stamped(cnn_model, cnn_npz, tmp_path, invoke, no_clock) -> None:
    output = tmp_path / "o.onnx"
    arguments = ["quantize", cnn_model, "-o", output, "--data", cnn_npz, "--mode", "static", "--max-drop", 1]
    outcome = invoke("--json", *arguments, "--rounding", "adaround")
    assert outcome.code == 0, outcome
    (judged,) = [n for n in json.loads(outcome.out)["data"]["fixes"] if n["node"] == "adaround"]
    stamp = json.loads(next(p.value for p in onnx.load(output).metadata_props if p.key == "onnxopt"))
    assert judged["verdict"] in ("taken", "declined")
    assert "dB with it" in judged["reason"]
    assert stamp["recipe"][-1]["rounding"] == {"taken": "adaround", "declined": "nearest"}[judged["verdict"]]


def test_rounding_for_a_form_that_has_no_layers_to_round_for_is_wrong_usage(
    mlp_model, mlp_npz, tmp_path, refused
) -> None:
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", "dynamic"]
    refused(2, [*arguments, "--rounding", "adaround"], "--mode static")


def test_what_only_static_forms_use_needs_data(mlp_model, tmp_path, refused) -> None:
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx"]
    refused(3, [*arguments, "--rounding", "adaround"], "--rounding adaround", "--data")
    refused(3, [*arguments, "--calibrator", "mse"], "--calibrator mse", "--data")
    refused(2, [*arguments, "--ray", "local"], "--mode auto --ray", "--data")
    refused(2, [*arguments, "--ray", "local", "--mode", "dynamic"], "--mode dynamic --ray", "calibrates nothing")
