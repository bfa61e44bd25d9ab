"""``quantize --target`` and ``compare --isa``: files for machines that are not this one."""

import json

import numpy as np
import onnx
import pytest

from onnxopt.run.settings import PRECISE, SessionSettings, write_settings
from tests.cli.command_line import REPOSITORY

MNIST = REPOSITORY / "calibration_data" / "mnist"


@pytest.fixture(autouse=True)
def vnni(monkeypatch):
    """A machine with VNNI, whatever this one is."""
    monkeypatch.setattr(
        "onnxopt.quantization.portability.deployment.cpu_flags", lambda: frozenset({"avx2", "avx512_vnni"})
    )


@pytest.fixture
def quantize(invoke, cnn_model, cnn_npz, tmp_path, no_clock):
    def call(*options):
        output = tmp_path / "int8.onnx"
        options = ("--mode", "static", "--calibrator", "minmax", "--max-drop", 1, *options)
        return invoke("--json", "quantize", cnn_model, "-o", output, "--data", cnn_npz, *options), output

    return call


def test_speed_elsewhere_is_not_known_and_nothing_is_written(quantize):
    outcome, output = quantize("--target", "tensorrt")
    assert outcome.code == 5
    document = outcome.document
    assert "speed was not measured" in document["verdict"]["reason"]
    assert document["data"]["target"] == {"name": "tensorrt", "speed_measured": False}
    assert not output.exists()
    assert all(c["latency"] is None for c in document["data"]["candidates"])


def test_inconclusive_pass_writes_it_and_the_file_says_for_whom(quantize):
    outcome, output = quantize("--target", "tensorrt", "--inconclusive", "pass")
    assert outcome.code == 0
    assert outcome.document["verdict"]["status"] == "inconclusive"
    model = onnx.load(output)
    facts = json.loads(next(p.value for p in model.metadata_props if p.key == "onnxopt"))
    assert facts["verdict"]["target"] == "tensorrt"
    zeros = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if "zero_point" in t.name]
    assert zeros
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)


@pytest.mark.parametrize("name", ["vnni", "host"])
def test_this_machine_is_measured(quantize, name):
    outcome, output = quantize("--target", name)
    assert outcome.code == 0
    assert outcome.document["data"]["target"] == {"name": "vnni", "speed_measured": True}
    assert output.exists()


def test_avx2_is_simulated_and_its_layers_named(quantize):
    outcome, _ = quantize("--target", "avx2")
    found = outcome.document["data"]["saturation"]
    assert found["layers"] > 0
    assert {"layer", "kernel", "possible", "saturated", "sqnr_db", "form"} <= set(found["at_risk"][0])
    assert "without VNNI" in found["scores"]
    assert outcome.code == 5


def test_an_unknown_target(refused, cnn_model, cnn_npz, tmp_path):
    arguments = ["quantize", cnn_model, "-o", tmp_path / "o.onnx", "--data", cnn_npz, "--target", "tensort"]
    refused(2, arguments, "tensort", "'tensorrt'")


def test_ranges_found_at_run_time_are_not_for_every_target(refused, cnn_model, tmp_path):
    arguments = ["quantize", cnn_model, "-o", tmp_path / "o.onnx", "--mode", "dynamic", "--target", "tensorrt"]
    refused(2, arguments, "--mode static")


def test_weight_only_is_not_for_every_target(refused, cnn_model, tmp_path):
    arguments = ["quantize", cnn_model, "-o", tmp_path / "o.onnx", "--mode", "weights", "--target", "tensorrt"]
    refused(2, arguments, "MatMulNBits", "--target cuda")


def test_compare_on_avx2_tells_both_accuracies(invoke, quantize, cnn_model, cnn_npz):
    _, output = quantize("--target", "vnni")
    outcome = invoke("--json", "compare", cnn_model, output, "--data", cnn_npz, "--isa", "avx2")
    assert outcome.code == 0
    data = outcome.document["data"]
    assert data["saturation"]["layers"] > 0
    assert data["comparison"]["metric"] == data["on_this_machine"]["metric"]


def test_compare_of_a_float_model_says_that_vnni_does_not_matter(invoke, cnn_model, cnn_npz):
    outcome = invoke("--json", "compare", cnn_model, cnn_model, "--data", cnn_npz, "--isa", "avx2")
    assert outcome.code == 0
    assert "do not depend on VNNI" in outcome.document["notes"][0]["reason"]
    assert outcome.document["data"]["comparison"]["drop"] == 0


def test_compare_on_avx2_knows_the_setting_that_makes_sums_exact(invoke, quantize, cnn_model, cnn_npz):
    _, output = quantize("--target", "vnni")
    write_settings(output, SessionSettings("cpu", session_config={PRECISE: "1"}))
    outcome = invoke("--json", "compare", cnn_model, output, "--data", cnn_npz, "--isa", "avx2")
    data = outcome.document["data"]
    assert data["comparison"] == data["on_this_machine"]
    assert "no sum saturates" in outcome.document["notes"][0]["reason"]


def test_an_unknown_instruction_set(refused, cnn_model, cnn_npz):
    refused(2, ["compare", cnn_model, cnn_model, "--data", cnn_npz, "--isa", "avx"], "'avx2'")


def test_the_shipped_model_saturates_is_repaired_and_stays_within_the_budget(invoke, tmp_path):
    output, few = tmp_path / "int8.onnx", tmp_path / "few.npz"
    with np.load(MNIST / "test.npz") as data:
        np.savez(few, **{name: data[name][:100] for name in data.files})
    outcome = invoke(
        "--json", "quantize", MNIST / "mnist_cnn.onnx", "-o", output, "--data", MNIST / "calibration.npz",
        "--eval-data", few, "--mode", "static", "--calibrator", "minmax", "--samples", 64,
        "--target", "avx2", "--inconclusive", "pass",
    )  # fmt: skip
    assert outcome.code == 0
    forms = [layer["form"] for layer in outcome.document["data"]["saturation"]["at_risk"]]
    assert forms[0] == "narrow"
    assert "kept" in forms
    accuracy = next(t for t in outcome.document["tables"] if t["title"] == "Simulated on AVX2")
    (_, _, _, before_db), (_, _, drop, after_db) = accuracy["rows"]
    assert before_db < 25
    assert after_db > 35
    assert drop <= 0.01
    again = invoke(
        "--json", "compare", MNIST / "mnist_cnn.onnx", output, "--data", few, "--isa", "avx2",
        "--max-drop", 0.01,
    )  # fmt: skip
    assert again.code == 0
    assert again.document["data"]["comparison"]["drift"][0]["sqnr_db"] == pytest.approx(after_db)
