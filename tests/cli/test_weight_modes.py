"""``quantize --mode weights``, ``float16`` and ``bfloat16``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.command_line import Outcome, latency
from tests.cli.sample_models import normal, parsed, with_initializers_as_inputs, write

Invoke = Callable[..., Outcome]
FEATURES = 128
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
wide (float[N, 128] x) => (float[N, 8] y) {
  h = MatMul(x, w1)
  r = Relu(h)
  y = MatMul(r, w2)
}
"""


def wide() -> onnx.ModelProto:
    return parsed(TEXT, {"w1": normal(FEATURES, 256, seed=1) / 11, "w2": normal(256, 8, seed=2) / 16})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(wide(), tmp_path / "wide.onnx")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "wide.npz", x=normal(48, FEATURES, seed=3))
    return tmp_path / "wide.npz"


def decided(monkeypatch: pytest.MonkeyPatch, *decisions: str) -> None:
    """Latency measurements that come out so, one after the other."""
    left = list(decisions)
    monkeypatch.setattr("onnxopt.quantization.search.candidates.compare_latency", lambda *a, **o: latency(left.pop(0)))


def candidates(outcome: Outcome) -> dict[str, str]:
    return {c["name"]: c["outcome"] for c in json.loads(outcome.out)["data"]["candidates"]}


def weights(model: Path, data: Path, *more: object) -> list[object]:
    return ["--json", "quantize", model, "-o", model.parent / "o.onnx", "--data", data, "--mode", "weights", *more]


def test_what_is_smaller_and_not_slower_passes(model, data, invoke: Invoke, monkeypatch) -> None:
    decided(monkeypatch, "same")
    outcome = invoke(*weights(model, data, "--max-drop", 1))
    assert outcome.code == 0, outcome
    verdict = json.loads(outcome.out)["verdict"]["reason"]
    assert "of the size" in verdict and "not slower" in verdict
    made = onnx.load(model.parent / "o.onnx")
    assert [n.op_type for n in made.graph.node if n.op_type.startswith("MatMul")] == ["MatMulNBits"] * 2
    assert (model.parent / "o.onnx").stat().st_size < 0.3 * model.stat().st_size
    stamp = json.loads(next(p.value for p in made.metadata_props if p.key == "onnxopt"))
    assert stamp["recipe"][-1]["pass"] == "quantize-weights" and stamp["recipe"][-1]["bits"] == 4
    notes = [n for n in json.loads(outcome.out)["notes"] if n["verdict"] == "chosen"]
    assert all(name in notes[0]["reason"] for name in ("rtn", "hqq", "gptq"))


def test_what_is_slower_fails_and_more_bits_are_tried(model, data, invoke: Invoke, monkeypatch) -> None:
    decided(monkeypatch, "slower", "slower")
    outcome = invoke(*weights(model, data, "--max-drop", 1))
    assert outcome.code == 1, outcome
    assert not (model.parent / "o.onnx").exists()
    assert list(candidates(outcome).values()) == ["not faster", "not faster"]
    assert [name.split()[1] for name in candidates(outcome)] == ["int4", "int8"]
    assert "slower" in json.loads(outcome.out)["verdict"]["reason"]
    decided(monkeypatch, "slower", "slower")
    assert invoke(*weights(model, data, "--max-drop", 1, "--keep-failing")).code == 1
    assert (model.parent / "o.onnx").exists()


def test_what_is_inaccurate_gets_shorter_blocks_and_then_more_bits(model, data, invoke: Invoke, monkeypatch) -> None:
    decided(monkeypatch, "faster")
    x = normal(48, FEATURES, seed=3)
    exact = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.savez(data, x=x, labels=exact + 0.05 * exact.std() * normal(*exact.shape, seed=4))
    outcome = invoke(*weights(model, data, "--metric", "rmse", "--max-drop", 0.2, "--algorithm", "rtn"))
    assert outcome.code == 0, outcome
    assert candidates(outcome) == {
        "weights, int4 in blocks of 128, rtn": "inaccurate",
        "weights, int4 in blocks of 32, rtn": "inaccurate",
        "weights, int8 in blocks of 128, rtn": "faster",
    }


@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "gptq"])
@pytest.mark.parametrize("bits", [4, 8])
def test_named_choices_are_used_and_give_the_same_bytes_again(
    algorithm, bits, model, data, invoke: Invoke, monkeypatch
) -> None:
    made = []
    for _ in range(2):
        decided(monkeypatch, "faster")
        options = ["--algorithm", algorithm, "--bits", bits, "--block-size", 64, "--max-drop", 1]
        outcome = invoke(*weights(model, data, *options))
        assert outcome.code == 0, outcome
        assert list(candidates(outcome)) == [f"weights, int{bits} in blocks of 64, {algorithm}"]
        made.append((model.parent / "o.onnx").read_bytes())
    assert made[0] == made[1]


def test_without_data_no_gptq_is_tried(model, invoke: Invoke, monkeypatch) -> None:
    decided(monkeypatch, "faster")
    arguments = ["--json", "quantize", model, "-o", model.parent / "o.onnx", "--mode", "weights", "--max-drop", 1]
    outcome = invoke(*arguments)
    assert outcome.code == 0, outcome
    assert "gptq" not in next(iter(candidates(outcome)))


def test_a_model_without_such_weights_is_unchanged(cnn_npz, tmp_path, invoke: Invoke) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }'
    path = write(parsed(text), tmp_path / "m.onnx")
    for mode in ("weights", "float16", "bfloat16"):
        outcome = invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", cnn_npz, "--mode", mode)
        assert outcome.code == 4, outcome
        assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "static", "--bits", "4"], ["weight-only", "--mode weights"]),
        (["--algorithm", "hqq"], ["weight-only"]),
        (["--mode", "float16", "--block-size", "32"], ["weight-only"]),
        (["--mode", "weights", "--calibrator", "mse"], ["calibrates nothing"]),
        (["--mode", "bfloat16", "--calibrator", "mse"], ["need no ranges"]),
        (["--mode", "weights", "--bits", "5"], ["'5'"]),
        (["--mode", "weights", "--block-size", "33"], ["'33'"]),
        (["--mode", "weights", "--algorithm", "awq"], ["awq"]),
    ],
)
def test_options_of_another_mode_are_wrong_usage(options, words, model, data, tmp_path, refused: Invoke) -> None:
    refused(2, ["quantize", model, "-o", tmp_path / "o.onnx", "--data", data, *options], *words)


def test_gptq_without_data_says_so(model, tmp_path, refused: Invoke) -> None:
    refused(
        3, ["quantize", model, "-o", tmp_path / "o.onnx", "--mode", "weights", "--algorithm", "gptq"], "GPTQ", "hqq"
    )


def test_a_model_that_has_such_weights_already_is_refused(
    model, data, invoke: Invoke, refused: Invoke, monkeypatch
) -> None:
    decided(monkeypatch, "faster")
    assert invoke(*weights(model, data, "--max-drop", 1)).code == 0
    again = ["quantize", model.parent / "o.onnx", "-o", model.parent / "p.onnx", "--data", data, "--mode", "weights"]
    refused(3, again, "already quantized", "MatMulNBits")


def test_float16_is_written_when_it_is_faster_and_keeps_the_interface(model, data, invoke: Invoke, monkeypatch) -> None:
    arguments = ["quantize", model, "-o", model.parent / "o.onnx", "--data", data, "--mode", "float16"]
    decided(monkeypatch, "slower")
    outcome = invoke(*arguments)
    assert outcome.code == 1 and "no float16 form is faster" in outcome.out, outcome
    assert not (model.parent / "o.onnx").exists()
    decided(monkeypatch, "faster")
    assert invoke(*arguments).code == 0
    graph = onnx.load(model.parent / "o.onnx").graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    assert {i.data_type for i in graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_bfloat16_without_kernels_is_unchanged_and_says_why(model, data, invoke: Invoke) -> None:
    outcome = invoke("quantize", model, "-o", model.parent / "o.onnx", "--data", data, "--mode", "bfloat16")
    assert outcome.code == 4, outcome
    assert "no bfloat16 kernel for MatMul" in outcome.out


def test_float16_with_weights_that_a_caller_may_replace(data, tmp_path, invoke: Invoke, monkeypatch) -> None:
    decided(monkeypatch, "faster")
    path = write(with_initializers_as_inputs(wide()), tmp_path / "m.onnx")
    outcome = invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", data, "--mode", "float16")
    assert outcome.code == 0, outcome
    graph = onnx.load(tmp_path / "o.onnx").graph
    assert {i.name: i.data_type for i in graph.initializer} == dict.fromkeys(("w1", "w2"), onnx.TensorProto.FLOAT)


def test_no_algorithm_is_chosen_for_a_form_that_there_is_no_time_for(model, data, invoke: Invoke, monkeypatch) -> None:
    decided(monkeypatch, "slower")
    outcome = invoke(*weights(model, data, "--max-drop", 1, "--max-evals", 1))
    assert outcome.code == 1, outcome
    assert list(candidates(outcome).values()) == ["not faster", "not tried"]
    notes = [n for n in json.loads(outcome.out)["notes"] if n["verdict"] == "chosen"]
    assert len(notes) == 1
