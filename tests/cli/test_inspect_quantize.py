"""``inspect --quantize`` and ``quantize --requantize`` as a user meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.command_line import Outcome
from tests.cli.sample_models import FEATURES, HIDDEN, mlp, normal, parsed, write


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Three MatMuls with names, the third of two computed values."""
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 16] x) => (float[N, N] y) '
        "{ h = MatMul(x, w1) r = Relu(h) k = MatMul(r, w2) t = Transpose<perm = [1, 0]>(k) y = MatMul(k, t) }",
        {"w1": normal(FEATURES, HIDDEN, seed=1), "w2": normal(HIDDEN, 4, seed=2)},
    )
    names = iter(("first", "second", "third"))
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.name = next(names)
    return write(model, tmp_path / "named.onnx")


def plan(outcome: Outcome) -> dict[str, dict[str, object]]:
    assert outcome.code == 0, outcome
    return {row["node"]: row for row in outcome.document["data"]["quantization"]}


def test_without_data_placement_and_reasons(invoke: Callable[..., Outcome], named: Path) -> None:
    rows = plan(invoke("--json", "inspect", named, "--quantize"))
    assert [rows[n]["runs_on"] for n in ("first", "second", "third")] == ["integers", "integers", "float"]
    assert rows["third"]["reason"] == "its weight is computed by Transpose"
    assert all(row["sqnr_db"] is None and row["gain_ms"] is None for row in rows.values())


def test_with_data_the_worst_layer_comes_first(invoke: Callable[..., Outcome], named: Path, mlp_npz: Path) -> None:
    outcome = invoke("--json", "inspect", named, "--quantize", "--data", mlp_npz, "--threads", 1)
    rows = list(plan(outcome).values())
    assert [row["runs_on"] for row in rows] == ["integers", "integers", "float"]
    assert 20 < rows[0]["sqnr_db"] <= rows[1]["sqnr_db"] < 80  # type: ignore[operator]
    assert all(isinstance(row["gain_ms"], float) for row in rows[:2])
    assert rows[0]["group"] == [rows[0]["node"]]
    assert "SQNR dB alone" in next(t for t in outcome.document["tables"] if t["title"].startswith("Static"))["columns"]


def test_patterns_are_tried_out(invoke: Callable[..., Outcome], named: Path, mlp_npz: Path) -> None:
    rows = plan(invoke("--json", "inspect", named, "--quantize", "--exclude", "fir*", "--data", mlp_npz))
    assert (rows["first"]["runs_on"], rows["first"]["reason"]) == ("float", "excluded")
    assert rows["second"]["runs_on"] == "integers"


def test_patterns_that_match_nothing_or_have_no_effect(refused: Callable[..., Outcome], named: Path) -> None:
    refused(2, ["inspect", named, "--quantize", "--exclude", "frist"], "'frist'", "did you mean 'first'")
    refused(2, ["inspect", named, "--exclude", "first"], "--quantize")


def test_values_that_are_not_finite_keep_their_nodes_float(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 16] x) => (float[N, 4] y) '
        "{ h = Log(x) k = MatMul(h, w1) r = Relu(k) y = MatMul(r, w2) }",
        {"w1": normal(FEATURES, HIDDEN, seed=1), "w2": normal(HIDDEN, 4, seed=2)},
    )
    path = write(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.where(normal(16, FEATURES) > 2, 0, 1).astype(np.float32))
    rows = plan(invoke("--json", "inspect", path, "--quantize", "--data", tmp_path / "d.npz", "--threads", 1))
    assert any(row["runs_on"] == "float" and "infinite" in str(row["reason"]) for row in rows.values()), rows


def test_layers_in_bodies_run_on_integers_and_recurrent_ones_say_why_not(
    invoke: Callable[..., Outcome], tmp_path: Path
) -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["b"], name="inner")],
        "body",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "other",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 16] x, bool c) => (float[N, 16] y) { y = Identity(x) }',
        {"w": normal(16, 16, seed=1)},
    )
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other))
    rows = plan(invoke("--json", "inspect", write(model, tmp_path / "m.onnx"), "--quantize"))
    assert rows["inner"]["runs_on"] == "integers"
    lstm = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[T, 1, 16] x) => (float[T, 1, 1, 4] y) '
        "{ y = LSTM<hidden_size = 4>(x, w, r) }",
        {"w": normal(1, 16, 16), "r": normal(1, 16, 4)},
    )
    rows = plan(invoke("--json", "inspect", write(lstm, tmp_path / "l.onnx"), "--quantize"))
    assert (
        next(iter(rows.values()))["reason"]
        == "ONNX Runtime has no static integer kernel for LSTM (dynamic quantization does)"
    )


def test_a_half_quantized_model_is_quantized_on_when_asked(
    invoke: Callable[..., Outcome], refused: Callable[..., Outcome], named: Path, mlp_npz: Path, no_clock: None
) -> None:
    half, whole = named.with_name("half.onnx"), named.with_name("whole.onnx")
    options = ["--data", mlp_npz, "--mode", "static", "--max-drop", 1, "--threads", 1]
    assert invoke("quantize", named, "-o", half, "--exclude", "second", *options).code == 0
    refused(3, ["quantize", half, "-o", whole, *options], "already quantized: 1x MatMul", "--requantize")
    rows = plan(invoke("--json", "inspect", half, "--quantize"))
    assert (rows["first"]["runs_on"], rows["second"]["runs_on"]) == ("integers already", "integers")
    outcome = invoke("quantize", half, "-o", whole, "--requantize", *options)
    assert outcome.code == 0, outcome
    before, after = onnx.load(half), onnx.load(whole)
    onnx.checker.check_model(after)
    pairs = {n.name: n for n in after.graph.node}
    for node in before.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert pairs[node.name].op_type == node.op_type, "a pair that was there is still there"
    weights = [n.input[1] for n in after.graph.node if n.op_type == "MatMul"]
    made = {n.output[0]: n.op_type for n in after.graph.node}
    assert [made[w] for w in weights[:2]] == ["DequantizeLinear"] * 2


def test_nothing_left_in_float_is_exit_4(
    invoke: Callable[..., Outcome], refused: Callable[..., Outcome], mlp_npz: Path, tmp_path: Path, no_clock: None
) -> None:
    path, once = write(mlp(), tmp_path / "m.onnx"), tmp_path / "once.onnx"
    for mode in ("static", "dynamic"):
        options = ["--data", mlp_npz, "--mode", mode, "--max-drop", 1, "--threads", 1]
        assert invoke("quantize", path, "-o", once, *options).code == 0
        again = ["quantize", once, "-o", tmp_path / "twice.onnx", "--requantize", *options]
        refused(4, again, "2x MatMul", "nothing is left")
