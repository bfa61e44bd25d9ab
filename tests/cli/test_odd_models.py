"""Models that are legal but unusual: each command works on them, or says why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.cli.sample_models import (
    CLASSES,
    CNN,
    FEATURES,
    HIDDEN,
    MLP,
    cnn,
    cnn_weights,
    mlp,
    mlp_data,
    mlp_weights,
    normal,
    parsed,
    with_initializers_as_inputs,
    write,
    write_external,
)

Invoke = Callable[..., Any]

CONTROL_FLOW = """
<ir_version: 8, opset_import: ["" : 17]>
flow (float[N, 16] x, bool flip) => (float[N, 4] y) {
  h = MatMul(x, w1)
  r = If (flip) <
    then_branch = then_graph () => (float[N, 32] a) { a = Relu(h) },
    else_branch = else_graph () => (float[N, 32] b) { b = Neg(h) }
  >
  y = MatMul(r, w2)
}
"""
LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
loop (float[N, 16] x) => (float[N, 16] y) {
  trips = Constant <value = int64 {3}> ()
  go = Constant <value = bool {1}> ()
  y = Loop (trips, go, x) <
    body = body_graph (int64 i, bool c, float[N, 16] v) => (bool d, float[N, 16] w) {
      d = Identity(c)
      w = MatMul(v, square)
    }
  >
}
"""
FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
calls (float[N, 16] x) => (float[N, 4] y) {
  h = local.Dense <scale = 2.0> (x, w1, b1)
  y = MatMul(h, w2)
}
<domain: "local", opset_import: ["" : 17]>
Dense <scale> (v, w, b) => (o) {
  g = Gemm <alpha : float = @scale> (v, w, b)
  o = Relu(g)
}
"""
STRINGS = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
strings (string[N] s) => (int64[N] y) {
  y = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_int64s = [1, 2]> (s)
}
"""
SEQUENCE = """
<ir_version: 8, opset_import: ["" : 17]>
sequence (seq(float[N, 4]) s) => (float[M, 4] y) {
  y = ConcatFromSequence <axis = 0> (s)
}
"""
NOTHING = """
<ir_version: 8, opset_import: ["" : 17]>
nothing (float[N, 16] x) => (float[N, 16] y) { y = Relu(x) }
"""
NO_INPUT = """
<ir_version: 8, opset_import: ["" : 17]>
source () => (float[2, 4] y) {
  r = RandomNormal <shape = [2, 16]> ()
  h = MatMul(r, w1)
  i = Identity(h)
  y = MatMul(i, w2)
}
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


@pytest.fixture
def quantized(invoke: Invoke, tmp_path: Path, no_clock: None) -> Callable[..., Path]:
    """The INT8 form of a model, which must be written and run on the same inputs as the model."""

    def call(model: onnx.ModelProto, *options: object, feeds: dict[str, np.ndarray] | None = None) -> Path:
        path, output = write(model, tmp_path / "m.onnx"), tmp_path / "out.onnx"
        before = path.read_bytes()
        outcome = invoke("quantize", path, "-o", output, "--max-drop", 1, *options)
        assert outcome.code == 0, outcome
        assert path.read_bytes() == before
        onnx.checker.check_model(str(output))
        first, second = (ort.InferenceSession(p, providers=["CPUExecutionProvider"]) for p in (path, output))
        assert [i.name for i in first.get_inputs()] == [i.name for i in second.get_inputs()]
        feeds = {"x": normal(4, FEATURES)} if feeds is None else feeds
        for a, b in zip(first.run(None, feeds), second.run(None, feeds), strict=True):
            assert np.abs(a - b).max() < 0.1 * np.abs(a).max() + 1e-6
        return output

    return call


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
    assert all(t.data_type != onnx.TensorProto.FLOAT or t.dims != [8, 3, 3, 3] for t in made.graph.initializer)


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
def test_constant_data(
    mode: str, value: float, invoke: Invoke, mlp_model: Path, tmp_path: Path, no_clock: None
) -> None:
    mlp_data(tmp_path / "d.npz", x=np.full((8, FEATURES), value, np.float32))
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


def test_a_quantized_model_is_not_quantized_again(
    quantized: Callable[..., Path], invoke: Invoke, tmp_path: Path, mlp_npz: Path
) -> None:
    once = quantized(mlp(), "--data", mlp_npz, "--mode", "static")
    for mode in ("static", "dynamic"):
        outcome = invoke("quantize", once, "-o", tmp_path / "twice.onnx", "--data", mlp_npz, "--mode", mode)
        assert outcome.code == 4 and "DequantizeLinear" in outcome.out, outcome
    assert not (tmp_path / "twice.onnx").exists()


def test_both_spellings_of_the_default_domain(quantized: Callable[..., Path], mlp_npz: Path) -> None:
    model = mlp()
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 17))
    model.graph.node[0].domain = "ai.onnx"
    output = onnx.load(quantized(model, "--data", mlp_npz, "--mode", "static"))
    assert [o.domain for o in output.opset_import].count("") == 1
    assert "ai.onnx" not in [o.domain for o in output.opset_import]
    assert not [n for n in output.graph.node if n.op_type == "MatMul" and n.domain == "ai.onnx"]


@pytest.mark.parametrize("name", ["", "node %d", "with [/]/and:colon %d", "käse[/red]\x1b[31m %d"])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_names_of_nodes_do_not_matter(name: str, mode: str, quantized: Callable[..., Path], mlp_npz: Path) -> None:
    model = mlp()
    for index, node in enumerate(model.graph.node):
        node.name = name and name % index
    assert "MatMul" not in [n for n in ops(quantized(model, "--data", mlp_npz, "--mode", mode)) if mode == "dynamic"]


def test_equal_names_in_two_branches_do_not_hide_costs(invoke: Invoke, tmp_path: Path) -> None:
    text = CONTROL_FLOW.replace("Relu(h)", "MatMul(h, s)").replace("Neg(h)", "MatMul(h, s)")
    model = parsed(text, {**mlp_weights(), "s": normal(HIDDEN, HIDDEN)})
    for attribute in model.graph.node[1].attribute:
        attribute.g.node[0].name = "same"
    data = invoke("--json", "inspect", write(model, tmp_path / "m.onnx")).document["data"]
    assert data["facts"]["macs"] == FEATURES * HIDDEN + 2 * HIDDEN * HIDDEN + HIDDEN * CLASSES
    assert 0 < data["quantizable"]["macs_share"] < 1


def test_equal_names_in_one_graph_are_refused_by_the_runtime(invoke: Invoke, tmp_path: Path) -> None:
    model = mlp()
    for node in model.graph.node:
        node.name = "same"
    outcome = invoke("inspect", write(model, tmp_path / "m.onnx"))
    assert outcome.code == 3 and "two nodes with same node name (same)" in outcome.err


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_branch(mode: str, quantized: Callable[..., Path], mlp_npz: Path, tmp_path: Path) -> None:
    mlp_data(tmp_path / "d.npz", flip=np.arange(64) % 2 == 0)
    feeds = {"x": normal(4, FEATURES), "flip": np.array(True)}
    model = parsed(CONTROL_FLOW, mlp_weights())
    quantized(model, "--data", tmp_path / "d.npz", "--mode", mode, feeds=feeds)


def test_the_body_of_a_loop(quantized: Callable[..., Path], invoke: Invoke, mlp_npz: Path, tmp_path: Path) -> None:
    model = parsed(LOOP, {"square": normal(16, 16) / 8})
    outcome = invoke("quantize", write(model, tmp_path / "l.onnx"), "-o", tmp_path / "o.onnx", "--data", mlp_npz,
                     "--mode", "static")  # fmt: skip
    assert outcome.code == 4 and "nested graphs" in outcome.out, outcome
    quantized(model, "--data", mlp_npz, "--mode", "dynamic")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_local_function_with_an_attribute_of_the_caller(
    mode: str, quantized: Callable[..., Path], mlp_npz: Path
) -> None:
    model = parsed(FUNCTION, {**mlp_weights(), "b1": normal(HIDDEN)})
    quantized(model, "--data", mlp_npz, "--mode", mode)


def test_weights_inside_a_function_with_an_attribute_of_the_caller(
    quantized: Callable[..., Path], mlp_npz: Path
) -> None:
    model = parsed(FUNCTION, {**mlp_weights(), "b1": normal(HIDDEN)})
    function = model.functions[0]
    constant = onnx.helper.make_node("Constant", [], ["inner"], value=numpy_helper.from_array(mlp_weights()["w1"]))
    for node in function.node:
        if node.op_type == "Gemm":
            node.input[1] = "inner"
    function.node.insert(0, constant)
    made = onnx.load(quantized(model, "--data", mlp_npz, "--mode", "dynamic"))
    assert [n.op_type for n in made.functions[0].node].count("Gemm") == 1, "its alpha is not known"


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


def test_a_model_without_inputs(invoke: Invoke, tmp_path: Path, mlp_npz: Path, no_clock: None) -> None:
    path = write(parsed(NO_INPUT, mlp_weights()), tmp_path / "m.onnx")
    assert invoke("inspect", path).code == 0
    outcome = invoke("optimize", path, "-o", tmp_path / "o.onnx")
    assert outcome.code == 0, outcome
    with_data = invoke("quantize", path, "-o", tmp_path / "q.onnx", "--data", mlp_npz)
    assert with_data.code == 3 and "no inputs" in with_data.err


def test_strings_as_input(invoke: Invoke, tmp_path: Path) -> None:
    path = write(parsed(STRINGS), tmp_path / "m.onnx")
    assert invoke("inspect", path).code == 0
    assert invoke("compare", path, path).code == 0
    np.savez(tmp_path / "d.npz", s=np.array(["a", "b", "c"]))
    assert invoke("compare", path, path, "--data", tmp_path / "d.npz").code == 0
    assert invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", tmp_path / "d.npz").code == 4


def test_a_sequence_as_input(invoke: Invoke, tmp_path: Path) -> None:
    path = write(parsed(SEQUENCE), tmp_path / "m.onnx")
    told = invoke("inspect", path)
    assert told.code == 0 and "not a tensor" in told.out, told
    refused = invoke("quantize", path, "-o", tmp_path / "o.onnx")
    assert refused.code == 3 and "not a tensor" in refused.err


def test_dynamic_dimensions_everywhere(quantized: Callable[..., Path], invoke: Invoke, tmp_path: Path) -> None:
    text = CNN.format(ir=8, opset=17).replace("N, 3, 8, 8", "a, b, c, d").replace("N, 4", "e, f")
    np.savez(tmp_path / "d.npz", x=normal(8, 3, 8, 8))
    quantized(parsed(text, cnn_weights()), "--data", tmp_path / "d.npz", feeds={"x": normal(2, 3, 9, 7)})
    assert invoke("inspect", tmp_path / "m.onnx").code == 0


def test_an_output_that_is_an_input_or_a_weight(invoke: Invoke, tmp_path: Path, mlp_npz: Path, no_clock: None) -> None:
    text = MLP.replace("=> (float[N, 4] y)", "=> (float[N, 4] y, float[16, 32] w1)")
    path = write(parsed(text, mlp_weights()), tmp_path / "m.onnx")
    for mode in ("static", "dynamic"):
        outcome = invoke("quantize", path, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--mode", mode,
                         "--max-drop", 1)  # fmt: skip
        assert outcome.code == 0, outcome


def test_the_layout_of_a_model_cache_loads(invoke: Invoke, tmp_path: Path, mlp_npz: Path, no_clock: None) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_external(mlp(), tmp_path / "model.onnx", "model.onnx_data")
    for name, blob in (("model.onnx", "aaa"), ("model.onnx_data", "bbb")):
        (tmp_path / name).rename(blobs / blob)
        (snapshot / name).symlink_to(os.path.relpath(blobs / blob, snapshot))
    model = snapshot / "model.onnx"
    assert invoke("inspect", model).code == 0
    outcome = invoke("quantize", model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--max-drop", 1)
    assert outcome.code == 0, outcome
    assert (snapshot / "model.onnx").is_symlink() and sorted(p.name for p in blobs.iterdir()) == ["aaa", "bbb"]


def test_many_external_tensors_under_a_small_limit_of_open_files(shell: Callable[..., Any], tmp_path: Path) -> None:
    count = 400
    lines = "\n".join(f"v{i + 1} = Add(v{i}, b{i})" for i in range(count))
    text = NOTHING.replace("(float[N, 16] x)", "(float[N, 16] v0)").replace("y = Relu(x)", lines)
    text = text.replace("(float[N, 16] y)", f"(float[N, 16] v{count})")
    model = parsed(text, {f"b{i}": normal(16, seed=i) for i in range(count)})
    write_external(model, tmp_path / "m.onnx")
    outcome = shell("inspect", tmp_path / "m.onnx", before="ulimit -n 256;")
    assert outcome.code == 0, outcome
    outcome = shell("optimize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", before="ulimit -n 256;")
    assert outcome.code in (0, 4), outcome


def test_a_file_name_with_markup_and_blanks(invoke: Invoke, tmp_path: Path, no_clock: None) -> None:
    path = write(parsed(NO_INPUT, mlp_weights()), tmp_path / "a [bold]b [__] ü.onnx")
    assert invoke("inspect", path).code == 0
    outcome = invoke("optimize", path, "-o", tmp_path / "[o].onnx")
    assert outcome.code == 0 and (tmp_path / "[o].onnx").exists(), outcome
