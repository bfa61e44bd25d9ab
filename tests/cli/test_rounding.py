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


def test_rounding_without_data_is_wrong_usage(mlp_model, mlp_npz, tmp_path, refused) -> None:
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", "dynamic"]
    refused(2, [*arguments, "--rounding", "adaround"], "only the weights of static forms")
