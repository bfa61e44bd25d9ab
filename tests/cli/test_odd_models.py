"""Unusual weights, values and types: each command works on such a model, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.cli.sample_models import (
    CLASSES,
    FEATURES,
    HIDDEN,
    MLP,
    cnn,
    mlp,
    mlp_data,
    mlp_weights,
    normal,
    parsed,
    with_initializers_as_inputs,
    write,
)

Invoke = Callable[..., Any]

NOTHING = """
<ir_version: 8, opset_import: ["" : 17]>
nothing (float[N, 16] x) => (float[N, 16] y) { y = Relu(x) }
"""
CONSTANT_NODES = """
<ir_version: 8, opset_import: ["" : 17]>
constants (float[N, 16] x) => (float[N, 4] y) {
  w1 = Constant()
  h = MatMul(x, w1)
  w2 = Constant()
  y = MatMul(h, w2)
}
"""


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (9, 4), (11, 6), (13, 7)])
def test_old_models_are_raised_and_quantized(
    opset: int, ir: int, quantized: Callable[..., Path], cnn_npz: Path
) -> None:
    model = cnn(opset=opset, ir=ir)
    if ir == 3:
        with_initializers_as_inputs(model)
    output = quantized(model, "--data", cnn_npz, "--mode", "static", feeds={"x": normal(2, 3, 8, 8)})
    made = onnx.load(output)
    assert max(o.version for o in made.opset_import if o.domain == "") >= 13
    assert "QuantizeLinear" in ops(output)
    assert any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1 for t in made.graph.initializer)


def test_inspect_does_not_ask_for_weights_that_old_files_list_as_inputs(invoke: Invoke, tmp_path: Path) -> None:
    path = write(with_initializers_as_inputs(cnn(opset=8, ir=3)), tmp_path / "m.onnx")
    outcome = invoke("--json", "inspect", path)
    assert outcome.code == 0
    data = outcome.document["data"]
    assert len(data["inputs"]) == 1 and data["quantizable"]["static"] == {"Conv": 1, "Gemm": 1}


def test_weights_that_a_caller_may_replace_stay_float(invoke: Invoke, tmp_path: Path, mlp_npz: Path) -> None:
    path = write(with_initializers_as_inputs(mlp()), tmp_path / "m.onnx")
    outcome = invoke("quantize", path, "-o", tmp_path / "out.onnx", "--data", mlp_npz)
    assert outcome.code == 4 and "graph input" in outcome.out and not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_weights_in_constant_nodes(mode: str, quantized: Callable[..., Path], mlp_npz: Path) -> None:
    model = parsed(CONSTANT_NODES)
    weights = iter([normal(FEATURES, HIDDEN, seed=1), normal(HIDDEN, CLASSES, seed=2)])
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = numpy_helper.from_array(next(weights))
            node.attribute.append(onnx.helper.make_attribute("value", value))
    assert not any(op == "Constant" for op in ops(quantized(model, "--data", mlp_npz, "--mode", mode)))


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_shared_weights_stay_shared(mode: str, quantized: Callable[..., Path], mlp_npz: Path) -> None:
    text = NOTHING.replace("y = Relu(x)", "a = MatMul(x, w)\n b = Relu(a)\n y = MatMul(b, w)")
    output = quantized(parsed(text, {"w": normal(16, 16, seed=7)}), "--data", mlp_npz, "--mode", mode)
    integers = [t for t in onnx.load(output).graph.initializer if t.dims == [16, 16]]
    assert [t.data_type for t in integers] == [onnx.TensorProto.INT8]


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("attributes", ["alpha = 0.5", "beta = 2.0", "transB = 1", "transB = 1, alpha = 3.0"])
def test_the_attributes_of_gemm(attributes: str, mode: str, quantized: Callable[..., Path], mlp_npz: Path) -> None:
    text = MLP.replace("h = MatMul(x, w1)", f"h = Gemm<{attributes}>(x, w1, b1)")
    weights = {**mlp_weights(), "b1": 5 * normal(HIDDEN, seed=3)}
    if "transB" in attributes:
        weights["w1"] = weights["w1"].T.copy()
    quantized(parsed(text, weights), "--data", mlp_npz, "--mode", mode)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_channel_of_zeros(mode: str, quantized: Callable[..., Path], mlp_npz: Path) -> None:
    weights = mlp_weights()
    weights["w1"][:, 3] = 0
    weights["w2"][:] = 0
    weights["w2"][:, 0] = 1
    quantized(parsed(MLP, weights), "--data", mlp_npz, "--mode", mode)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30])
def test_nearly_constant_data(
    mode: str, value: float, invoke: Invoke, mlp_model: Path, tmp_path: Path, no_clock: None
) -> None:
    x = np.full((8, FEATURES), value, np.float32)
    x[0, 0] += 1e-20  # data of one value are refused: test_search.py
    x[0, 1] = 2 * value + 1e-30
    mlp_data(tmp_path / "d.npz", x=x)
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", tmp_path / "d.npz", "--mode", mode]
    outcome = invoke(*arguments, "--max-drop", 1)
    assert outcome.code == 0, outcome


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("mode", ["auto", "static", "dynamic"])
def test_a_weight_that_is_no_number_stays_float_and_is_named(
    bad: float, mode: str, invoke: Invoke, tmp_path: Path, mlp_npz: Path, no_clock: None
) -> None:
    weights = mlp_weights()
    weights["w2"][1, 1] = bad
    path = write(parsed(MLP, weights), tmp_path / "m.onnx")
    outcome = invoke(
        "quantize", path, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", mode, "--max-drop", 1,
        "--metric", "agreement[cosine]", "-o", tmp_path / "o.onnx",
    )  # fmt: skip
    assert outcome.code in (0, 1), outcome
    assert "NaN or infinity" in outcome.out or outcome.code == 1
    told = invoke("inspect", path)
    assert told.code == 0 and "NaN or infinity" in told.out, told


@pytest.mark.parametrize("mode", ["auto", "static", "dynamic"])
def test_activations_that_are_no_numbers_do_not_stop_the_rest(
    mode: str, invoke: Invoke, tmp_path: Path, mlp_npz: Path, no_clock: None
) -> None:
    """log of negative numbers gives NaN on the way to the second output; the first stays quantizable."""
    text = MLP.replace("=> (float[N, 4] y)", "=> (float[N, 4] y, float[N, 4] z)")
    text = text.replace("y = MatMul(r, w2)", "y = MatMul(r, w2)\n l = Log(h)\n z = MatMul(l, w2)")
    path = write(parsed(text, mlp_weights()), tmp_path / "m.onnx")
    arguments = ["quantize", path, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", mode, "--max-drop", 1]
    outcome = invoke(*arguments)
    assert outcome.code == 0, outcome
    if mode == "static":
        assert "NaN or infinite" in outcome.out


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_float_types_are_declined_with_the_reason(kind: type[np.generic], invoke: Invoke, tmp_path: Path) -> None:
    name = {np.float16: "float16", np.float64: "double"}[kind]
    weights = {key: array.astype(kind) for key, array in mlp_weights().items()}
    path = write(parsed(MLP.replace("float[", f"{name}["), weights), tmp_path / "m.onnx")
    mlp_data(tmp_path / "d.npz", x=normal(8, FEATURES).astype(kind))
    outcome = invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", tmp_path / "d.npz")
    assert outcome.code == 4 and f"its weight is {name}" in outcome.out, outcome
    assert invoke("inspect", path).code == 0
    assert invoke("compare", path, path, "--data", tmp_path / "d.npz").code == 0


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_quantized_model_is_not_quantized_again(
    mode: str, quantized: Callable[..., Path], refused: Callable[..., Any], mlp_npz: Path
) -> None:
    once = quantized(mlp(), "--data", mlp_npz, "--mode", mode)
    refused(3, ["quantize", once, "-o", once.with_name("twice.onnx"), "--data", mlp_npz], "already quantized", "2x")


def test_a_dequantized_input_does_not_make_a_model_quantized(quantized: Callable[..., Path], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (uint8[N,8] x) => (float[N,4] y) <float s = {0.1}>
        { f = DequantizeLinear(x, s)  y = MatMul(f, w) }"""
    feeds = {"x": np.random.default_rng(1).integers(0, 255, (16, 8)).astype(np.uint8)}
    np.savez(tmp_path / "d.npz", **feeds)
    quantized(parsed(text, {"w": normal(8, 4)}), "--data", tmp_path / "d.npz", "--mode", "dynamic", feeds=feeds)


@pytest.mark.parametrize("mode", ["auto", "static", "dynamic"])
def test_nothing_to_quantize(mode: str, invoke: Invoke, tmp_path: Path, mlp_npz: Path) -> None:
    path = write(parsed(NOTHING), tmp_path / "m.onnx")
    outcome = invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", mode)
    assert outcome.code == 4 and not (tmp_path / "o.onnx").exists()
    assert "no Conv, Gemm, MatMul" in outcome.out, outcome


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_everything_excluded_says_so(mode: str, invoke: Invoke, mlp_model: Path, mlp_npz: Path, tmp_path: Path) -> None:
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", mode]
    outcome = invoke(*arguments, "--exclude", "MatMul")
    assert outcome.code == 4 and "excluded" in outcome.out.splitlines()[0], outcome


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_model_without_standard_operators_has_nothing_to_quantize(
    mode: str, invoke: Invoke, tmp_path: Path, mlp_npz: Path
) -> None:
    text = NOTHING.replace('"" : 17', '"com.microsoft" : 1').replace("Relu(x)", "com.microsoft.Gelu(x)")
    path = write(parsed(text), tmp_path / "m.onnx")
    outcome = invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", mode)
    assert outcome.code == 4 and "no Conv, Gemm, MatMul" in outcome.out, outcome
