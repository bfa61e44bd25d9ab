"""Unusual graphs and files: each command works on such a model, or says why not."""

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
    cnn_weights,
    mlp,
    mlp_data,
    mlp_weights,
    normal,
    parsed,
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


def test_both_spellings_of_the_default_domain(quantized: Callable[..., Path], mlp_npz: Path) -> None:
    model = mlp()
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 17))
    model.graph.node[0].domain = "ai.onnx"
    output = onnx.load(quantized(model, "--data", mlp_npz, "--mode", "static"))
    assert [o.domain for o in output.opset_import].count("") == 1
    assert "ai.onnx" not in [o.domain for o in output.opset_import]
    assert not [n for n in output.graph.node if n.op_type == "MatMul" and n.domain == "ai.onnx"]


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


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
    assert data["quantizable"]["macs_share"] == 1, "static quantization reaches both branches"


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


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_body_of_a_loop(mode: str, quantized: Callable[..., Path], mlp_npz: Path) -> None:
    model = parsed(LOOP, {"square": normal(16, 16) / 8})
    quantized(model, "--data", mlp_npz, "--mode", mode)


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


ZIP_MAP = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
classifier (float[N, 16] x) => (float[N, 4] scores, seq(map(int64, float)) table) {
  h = MatMul(x, w1)
  scores = Softmax(h)
  table = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2, 3]> (scores)
}
"""


def test_a_classifier_that_returns_maps(no_clock: None, invoke: Invoke, tmp_path: Path) -> None:
    model = parsed(ZIP_MAP, {"w1": normal(16, 4)})
    np.savez(tmp_path / "d.npz", x=normal(40, 16))
    path = write(model, tmp_path / "zip.onnx")
    assert invoke("inspect", path).code == 0
    options = ["--data", tmp_path / "d.npz", "--mode", "dynamic"]
    output = tmp_path / "out.onnx"
    assert invoke("quantize", path, "-o", output, "--max-drop", 1, *options).code == 0
    made = onnx.load(output)
    assert made.graph.output[1].type == model.graph.output[1].type
    onnx.checker.check_model(made)
    table = ort.InferenceSession(output, providers=["CPUExecutionProvider"]).run(["table"], {"x": normal(2, 16)})[0]
    assert sorted(table[0]) == [0, 1, 2, 3]


TWO_HEADS = """
<ir_version: 8, opset_import: ["" : 17]>
heads (float[N, 16] x) => (float[N, 4] classes, float[N, 4] box) {
  h = MatMul(x, w1)
  classes = MatMul(h, w2)
  wide = Mul(h, gain)
  box = MatMul(wide, w3)
}
"""


@pytest.fixture
def two_heads(tmp_path: Path) -> Path:
    """Before the second head one channel is 20000 times as large as the others, and nothing reads it."""
    gain = np.ones(16, np.float32)
    gain[0] = 20000
    unread = normal(16, 4)
    unread[0] = 0
    np.savez(tmp_path / "d.npz", x=normal(60, 16))
    weights = {"w1": normal(16, 16), "w2": normal(16, 4), "w3": unread, "gain": gain}
    return write(parsed(TWO_HEADS, weights), tmp_path / "heads.onnx")


@pytest.mark.parametrize("chosen", [False, True])
def test_a_lost_second_output_counts_unless_another_one_was_chosen(
    chosen: bool, two_heads: Path, no_clock: None, invoke: Invoke, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    data = ["--data", tmp_path / "d.npz", "--max-drop", 0.3, *(["--output-name", "classes"] if chosen else [])]
    outcome = invoke("quantize", two_heads, "-o", output, "--mode", "static", *data)
    assert outcome.code == (0 if chosen else 1)
    assert output.exists() == chosen
    if chosen:
        assert invoke("compare", two_heads, output, *data).code == 0
        assert invoke("compare", two_heads, output, *data[:4]).code == 1
    else:
        assert "output 'box' is lost" in outcome.out
