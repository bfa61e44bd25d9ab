"""``prune`` as a user meets it: goals, budgets, refusals, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser

from tests.cli.command_line import REPOSITORY, latency
from tests.cli.sample_models import normal

MNIST = REPOSITORY / "calibration_data" / "mnist"
NOTHING = """
<ir_version: 8, opset_import: ["" : 17]>
alone (float[N, 4] x) => (float[N, 3] y) {
  y = MatMul(x, w)
}
"""


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency measurements that take no time, for tests of everything else."""
    monkeypatch.setattr("onnxopt.commands.prune.compare_latency", lambda *args, **options: latency("faster"))


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, Path]:
    """The trained network that the package ships, and few of its samples."""
    loaded = np.load(MNIST / "calibration.npz")
    few = {name: loaded[name][:64] for name in loaded.files}
    np.savez(tmp_path / "few.npz", **few)
    return MNIST / "mnist_cnn.onnx", tmp_path / "few.npz"


def accuracy(path: Path) -> float:
    """Top-1 of a model on the first 400 test images."""
    test = np.load(MNIST / "test.npz")
    session = ort.InferenceSession(str(path))
    name = session.get_inputs()[0].name
    scores = session.run(None, {name: test[name][:400]})[0]
    return float((scores.argmax(1) == test["labels"][:400]).mean())


def test_the_next_way_is_taken_when_one_is_slower_than_the_input(digits, tmp_path, invoke, monkeypatch) -> None:
    model, data = digits
    decisions = iter(["slower", "slower"])
    monkeypatch.setattr(
        "onnxopt.commands.prune.compare_latency", lambda *args, **options: latency(next(decisions, "faster"))
    )
    outcome = invoke("prune", model, "-o", tmp_path / "o.onnx", "--data", data, "--macs", 0.5, "--threads", 1)
    assert outcome.code == 0, outcome
    assert outcome.out.count("slower than the input") == 2 and outcome.out.count("chosen") == 1


def test_half_of_the_work_goes_and_the_accuracy_stays(digits, tmp_path, invoke, steady) -> None:
    model, data = digits
    before, output = model.read_bytes(), tmp_path / "o.onnx"
    outcome = invoke("--json", "prune", model, "-o", output, "--data", data, "--macs", 0.5, "--threads", 1)
    assert outcome.code == 0, outcome
    found = outcome.document["data"]
    assert found["cost"]["macs"]["output"] <= 0.5 * found["cost"]["macs"]["input"]
    assert accuracy(output) >= accuracy(model) - 0.03
    assert model.read_bytes() == before
    stamp = json.loads(next(p.value for p in onnx.load(output).metadata_props if p.key == "onnxopt"))
    assert stamp["recipe"][0]["pass"] == "prune"
    assert stamp["recipe"][0].get("kept") or stamp["recipe"][0].get("ranks")
    names = [[o.name for o in ort.InferenceSession(str(p)).get_outputs()] for p in (model, output)]
    assert names[0] == names[1]


def test_repair_is_what_keeps_the_accuracy(digits, tmp_path, invoke, steady) -> None:
    model, data = digits
    shared = ["--data", data, "--params", 0.4, "--threads", 1, "--time-limit", 1, "--samples", 48]
    invoke("prune", model, "-o", tmp_path / "obs.onnx", *shared)
    outcome = invoke("--json", "prune", model, "-o", tmp_path / "l1.onnx", *shared, "--importance", "l1")
    assert outcome.code == 0, outcome
    assert outcome.document["data"]["repaired_layers"] > 0
    assert accuracy(tmp_path / "obs.onnx") >= accuracy(model) - 0.05


def test_the_same_inputs_give_the_same_bytes(cnn_model, cnn_npz, tmp_path, invoke, steady) -> None:
    for name in ("a", "b"):
        path = tmp_path / f"{name}.onnx"
        assert invoke("prune", cnn_model, "-o", path, "--data", cnn_npz, "--macs", 0.6, "--threads", 1).code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_latency_goal_is_measured(digits, tmp_path, invoke) -> None:
    model, data = digits
    arguments = ["prune", model, "-o", tmp_path / "o.onnx", "--data", data, "--latency", 0.7, "--time-limit", 1]
    outcome = invoke("--json", *arguments, "--threads", 1, "--keep-failing")
    found = outcome.document["data"]
    assert outcome.code == (0 if found["latency"]["ratio"] <= 0.72 else 1), outcome
    assert found["latency"]["ratio"] < 0.9
    assert (tmp_path / "o.onnx").exists()


def test_a_budget_that_is_not_met_writes_nothing(digits, tmp_path, invoke, steady) -> None:
    model, data = digits
    name = ort.InferenceSession(str(model)).get_inputs()[0].name
    np.savez(tmp_path / "noise.npz", **{name: normal(64, 1, 28, 28)})
    output = tmp_path / "o.onnx"
    arguments = ["prune", model, "-o", output, "--data", data, "--macs", 0.1, "--time-limit", 1, "--threads", 1]
    arguments += ["--eval-data", tmp_path / "noise.npz", "--max-drop", 0, "--importance", "l2"]
    outcome = invoke(*arguments)
    assert outcome.code == 1, outcome
    assert outcome.out.startswith("FAIL over the budget of 0")
    assert not output.exists()
    assert invoke(*arguments, "--keep-failing").code == 1
    assert output.exists()


def test_a_goal_out_of_reach_names_what_can_be_reached(digits, tmp_path, invoke) -> None:
    model, data = digits
    arguments = ["prune", model, "-o", tmp_path / "o.onnx", "--data", data, "--macs", 0.001]
    outcome = invoke("--json", *arguments, "--importance", "l2")
    assert outcome.code == 1, outcome
    assert "out of reach" in outcome.document["verdict"]["reason"]
    assert 0.001 < outcome.document["data"]["least"] < 0.5
    assert not (tmp_path / "o.onnx").exists()


def test_a_model_without_inner_channels_is_left_alone_with_the_reason(tmp_path, invoke) -> None:
    model = parser.parse_model(NOTHING)
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 3), "w"))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=normal(20, 4))
    output = tmp_path / "o.onnx"
    outcome = invoke("prune", tmp_path / "m.onnx", "-o", output, "--data", tmp_path / "d.npz", "--macs", 0.5)
    assert outcome.code == 4, outcome
    assert "nothing can be cut" in outcome.out
    assert not output.exists()


@pytest.mark.parametrize("ratio", ["0", "1", "-0.5", "1.5", "nan"])
def test_what_is_no_share_is_wrong_usage(cnn_model, cnn_npz, tmp_path, refused, ratio) -> None:
    arguments = ["prune", cnn_model, "-o", tmp_path / "o.onnx", "--data", cnn_npz]
    refused(2, [*arguments, f"--macs={ratio}"], "--macs")


def test_goals_and_data_are_needed_and_only_one_goal(cnn_model, cnn_npz, tmp_path, refused) -> None:
    output = ["prune", cnn_model, "-o", tmp_path / "o.onnx"]
    refused(2, [*output, "--data", cnn_npz], "--latency", "--max-drop")
    refused(2, [*output, "--data", cnn_npz, "--macs", 0.5, "--params", 0.5], "more than one goal")
    refused(2, [*output, "--macs", 0.5], "--data")
    refused(2, ["prune", cnn_model, "--data", cnn_npz, "--macs", 0.5], "-o OUT")
    refused(2, [*output, "--data", cnn_npz, "--macs", 0.5, "--keep", "Convv"], "did you mean", "Conv")


def test_data_that_do_not_fit_and_quantized_models_are_refused(cnn_model, mlp_npz, tmp_path, refused) -> None:
    refused(3, ["prune", cnn_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--macs", 0.5], "x")
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "integer",
        [value("x", onnx.TensorProto.UINT8, [1, 3, 8, 8])],
        [value("y", onnx.TensorProto.INT32, None)],
        [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.uint8), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "q.onnx")
    np.savez(tmp_path / "q.npz", x=np.ones((4, 3, 8, 8), np.uint8))
    arguments = ["prune", tmp_path / "q.onnx", "-o", tmp_path / "o.onnx", "--data", tmp_path / "q.npz", "--macs", 0.5]
    refused(3, arguments, "quantized", "prune the float model")


def test_nodes_that_are_to_stay_keep_their_channels(digits, tmp_path, invoke, steady) -> None:
    model, data = digits
    arguments = ["prune", model, "-o", tmp_path / "o.onnx", "--data", data, "--macs", 0.8, "--time-limit", 1]
    names = [n.name for n in onnx.load(model).graph.node if n.op_type == "Conv"]
    outcome = invoke("--json", *arguments, "--keep", names[1], "--threads", 1)
    assert outcome.code == 0, outcome
    assert names[1] not in [g["name"] for g in outcome.document["data"]["groups"]]
    assert names[0] in [g["name"] for g in outcome.document["data"]["groups"]]


def test_inspect_lists_groups_and_barriers(digits, invoke) -> None:
    outcome = invoke("--json", "inspect", digits[0], "--prune")
    assert outcome.code == 0, outcome
    groups = outcome.document["data"]["prunable"]
    assert [g["units"] for g in groups] == [32, 64, 128, 128, 128]
    assert all(g["params"] > 0 and g["MACs"] > 0 for g in groups)


def test_data_and_weights_that_say_nothing_are_refused(digits, tmp_path, refused) -> None:
    model, _ = digits
    name = ort.InferenceSession(str(model)).get_inputs()[0].name
    np.savez(tmp_path / "blank.npz", **{name: np.zeros((16, 1, 28, 28), np.float32)})
    output = ["-o", tmp_path / "o.onnx", "--macs", 0.5]
    refused(3, ["prune", model, *output, "--data", tmp_path / "blank.npz"], "all values of the data are the same")
    broken = onnx.load(model)
    weight = next(t for t in broken.graph.initializer if len(t.dims) == 4)
    array = numpy_helper.to_array(weight).copy()
    array.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(broken, tmp_path / "broken.onnx")
    arguments = ["prune", tmp_path / "broken.onnx", *output, "--data", tmp_path / "few.npz"]
    refused(3, arguments, weight.name, "NaN")


def test_inputs_that_hardly_vary_are_no_reason_to_fail(digits, tmp_path, invoke, steady) -> None:
    model, _ = digits
    name = ort.InferenceSession(str(model)).get_inputs()[0].name
    dark = np.zeros((32, 1, 28, 28), np.float32)
    dark[:, 0, 14, 14] = np.arange(32) * 1e-8
    np.savez(tmp_path / "dark.npz", **{name: dark})
    arguments = ["prune", model, "-o", tmp_path / "o.onnx", "--data", tmp_path / "dark.npz", "--macs", 0.5]
    assert invoke(*arguments, "--time-limit", 1, "--threads", 1).code == 0


def test_fisher_information_ranks_by_labels(digits, tmp_path, invoke, steady) -> None:
    model, data = digits
    output = tmp_path / "o.onnx"
    arguments = ["--macs", 0.5, "--threads", 1, "--importance", "fisher"]
    outcome = invoke("prune", model, "-o", output, "--data", data, *arguments)
    assert outcome.code == 0, outcome
    assert accuracy(output) >= accuracy(model) - 0.05
    np.savez(tmp_path / "bare.npz", image=np.load(data)["image"])
    outcome = invoke("prune", model, "-o", tmp_path / "p.onnx", "--data", tmp_path / "bare.npz", *arguments)
    assert outcome.code == 2 and "needs labels" in outcome.err and not (tmp_path / "p.onnx").exists()
