from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.core.io import load
from onnxopt.measurement.attribution import attribute
from onnxopt.measurement.profile import Profile, profile
from onnxopt.measurement.trace import Kernel
from onnxopt.run.target import Target

ONE = Target(threads=1)
CHANNELS = 16
IMAGE = (1, CHANNELS, 12, 12)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(len(name))
    return numpy_helper.from_array((rng.standard_normal(shape) / 8).astype(np.float32), name)


def profiled(folder: Path, text: str, weights: list[onnx.TensorProto], feeds: dict[str, np.ndarray]) -> Profile:
    """The profile of the graph in ONNX's text form, with weights."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n{text}')
    model.graph.initializer.extend(weights)
    onnx.save(model, folder / "m.onnx")
    return profile(folder / "m.onnx", [feeds], ONE, runs=3)


def behind(found: Profile, *ops: str) -> list[set[str]]:
    """The nodes behind the kernels of these operators, in the order of execution."""
    return [set(t.nodes) for t in found.times if t.op in ops]


def image() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(IMAGE).astype(np.float32)}


def rows() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)}


def test_a_fused_activation_and_a_residual_belong_to_their_convolution(tmp_path: Path) -> None:
    text = """
    m (float[1, 16, 12, 12] x) => (float[1, 16, 12, 12] y) {
      a = Conv <pads = [1, 1, 1, 1]> (x, w1)
      b = Relu (a)
      c = Conv <pads = [1, 1, 1, 1]> (b, w2)
      d = Add (c, b)
      y = Relu (d)
    }"""
    kernels = [CHANNELS, CHANNELS, 3, 3]
    found = profiled(tmp_path, text, [weight("w1", *kernels), weight("w2", *kernels)], image())
    first, second = behind(found, "Conv", "FusedConv")
    assert {"Conv->a", "Relu->b"} == first
    assert "Conv->c" in second
    assert set().union(*(t.nodes for t in found.times)) == {"Conv->a", "Relu->b", "Conv->c", "Add->d", "Relu->y"}
    assert all(not t.nodes for t in found.times if t.op.startswith("Reorder"))


def test_a_folded_batch_norm_belongs_to_its_convolution(tmp_path: Path) -> None:
    text = """
    m (float[1, 16, 12, 12] x) => (float[1, 16, 12, 12] y) {
      a = Conv <pads = [1, 1, 1, 1]> (x, w)
      y = BatchNormalization (a, s, b, m, v)
    }"""
    positive = numpy_helper.from_array(np.full(CHANNELS, 0.5, np.float32), "v")
    weights = [weight("w", CHANNELS, CHANNELS, 3, 3), *(weight(n, CHANNELS) for n in "sbm"), positive]
    found = profiled(tmp_path, text, weights, image())
    assert behind(found, "Conv") == [{"Conv->a", "BatchNormalization->y"}]


def quantized(name: str, *shape: int) -> list[onnx.TensorProto]:
    values = np.random.default_rng(0).integers(-20, 20, shape)
    return [
        numpy_helper.from_array(values.astype(np.int8), f"{name}_q"),
        numpy_helper.from_array(np.asarray(np.float32(0.02)), f"{name}_s"),
        numpy_helper.from_array(np.asarray(np.int8(0)), f"{name}_z"),
    ]


QDQ = """
m (float[1, 16, 12, 12] x) => (float[1, 16, 12, 12] y) {
  xq = QuantizeLinear (x, s, z)
  xd = DequantizeLinear (xq, s, z)
  w = DequantizeLinear (w_q, w_s, w_z)
  a = Conv <pads = [1, 1, 1, 1]> (xd, w)
  r = Relu (a)
  rq = QuantizeLinear (r, s, low)
  y = DequantizeLinear (rq, s, low)
}"""


def test_an_integer_kernel_stands_for_its_dequantize_compute_quantize_group(tmp_path: Path) -> None:
    grid = {"s": np.float32(0.05), "z": np.uint8(128), "low": np.uint8(0)}
    scales = [numpy_helper.from_array(np.asarray(value), name) for name, value in grid.items()]
    found = profiled(tmp_path, QDQ, [*scales, *quantized("w", CHANNELS, CHANNELS, 3, 3)], image())
    (kernel,) = (t for t in found.times if t.op == "QLinearConv")
    assert kernel.nodes[0] == "Conv->a"
    assert {"DequantizeLinear->xd", "DequantizeLinear->w", "Relu->r", "QuantizeLinear->rq"} <= set(kernel.nodes)
    assert ["QuantizeLinear->xq"] in [list(t.nodes) for t in found.times]
    assert all(t.op in ("Transpose", "ReorderInput") for t in found.times if not t.nodes)


def test_folded_constants_belong_to_what_uses_them(tmp_path: Path) -> None:
    text = """
    m (float[4, 64] x) => (float[4, 32] y) {
      t = Transpose <perm = [1, 0]> (w)
      n = Neg (t)
      a = MatMul (x, n)
      y = Tanh (a)
    }"""
    found = profiled(tmp_path, text, [weight("w", 32, 64)], rows())
    assert [t.nodes for t in found.times] == [("MatMul->a", "Transpose->t", "Neg->n"), ("Tanh->y",)]


def test_fused_nodes_of_a_transformer_belong_to_one_kernel(tmp_path: Path) -> None:
    text = """
    m (float[2, 4, 64] x, float[2, 4, 64] s) => (float[2, 4, 64] y) {
      a = Add (x, s)
      n = LayerNormalization <axis = -1> (a, g, b)
      p = MatMul (n, w)
      q = Add (p, b)
      e = Div (q, root)
      f = Erf (e)
      h = Add (f, one)
      i = Mul (q, h)
      y = Mul (i, half)
    }"""
    numbers = {"root": 1.4142135, "one": 1.0, "half": 0.5}
    constants = [numpy_helper.from_array(np.float32(v), k) for k, v in numbers.items()]
    feeds = {name: np.ones((2, 4, 64), np.float32) for name in "xs"}
    found = profiled(tmp_path, text, [weight("g", 64), weight("b", 64), weight("w", 64, 64), *constants], feeds)
    assert behind(found, "SkipLayerNormalization") == [{"Add->a", "LayerNormalization->n"}]
    (gelu,) = behind(found, "Gelu", "BiasGelu", "FastGelu")
    assert gelu >= {"Div->e", "Erf->f", "Add->h", "Mul->i", "Mul->y"}
    linear = [t.nodes for t in found.times if "MatMul->p" in t.nodes]  # one kernel, or Reshape, Gemm, Reshape
    assert all(set(nodes) <= {"MatMul->p", "Add->q"} for nodes in linear)
    assert found.attributed_share == 1.0


def test_a_transpose_that_was_moved_stays_known(tmp_path: Path) -> None:
    text = """
    m (float[1, 16, 12, 12] x) => (float[1, 12, 12, 16] y) {
      t = Transpose <perm = [0, 2, 3, 1]> (x)
      r = Relu (t)
      b = Transpose <perm = [0, 3, 1, 2]> (r)
      c = Softplus (b)
      y = Transpose <perm = [0, 2, 3, 1]> (c)
    }"""
    found = profiled(tmp_path, text, [], image())
    for kernel in found.times:
        assert kernel.nodes, kernel
        assert any(name.startswith(kernel.op) for name in kernel.nodes)


def branching(*, fixed: bool) -> onnx.ModelProto:
    """Sigmoid(x) * (c ? Relu(x w) : -x); ``fixed``: the condition is a constant."""
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["t"], name="inner"), helper.make_node("Relu", ["t"], ["t2"])],
        "then",
        [],
        [value("t2", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"])], "else", [], [value("e", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], name="gate"),
        helper.make_node("If", ["c"], ["b"], name="choose", then_branch=then, else_branch=other),
        helper.make_node("Mul", ["b", "s"], ["y"], name="mix"),
    ]
    inputs = [value("x", TensorProto.FLOAT, [4, 64])] + [value("c", TensorProto.BOOL, [])] * (not fixed)
    weights = [weight("w", 64, 64)] + [numpy_helper.from_array(np.array(True), "c")] * fixed
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, [4, 64])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_body_of_a_branch_is_not_counted_beside_its_node(tmp_path: Path) -> None:
    onnx.save(branching(fixed=False), tmp_path / "m.onnx")
    found = profile(tmp_path / "m.onnx", [{**rows(), "c": np.array(True)}], ONE, runs=3)
    assert sorted(t.nodes for t in found.times) == [("choose",), ("gate",), ("mix",)]


def test_a_branch_that_was_put_in_line_belongs_to_its_node(tmp_path: Path) -> None:
    onnx.save(branching(fixed=True), tmp_path / "m.onnx")
    found = profile(tmp_path / "m.onnx", [rows()], ONE, runs=3)
    assert behind(found, "MatMul", "Relu") == [{"choose"}, {"choose"}]
    assert found.attributed_share == 1.0


def test_the_kernels_of_a_local_function_belong_to_its_call(tmp_path: Path) -> None:
    text = """
    m (float[4, 64] x) => (float[4, 64] y) {
      a = local.twice (x)
      y = Tanh (a)
    }
    <opset_import: ["" : 17], domain: "local">
    twice (p) => (r) {
      q = Softplus (p)
      r = Softsign (q)
    }"""
    found = profiled(tmp_path, text, [], rows())
    assert [(t.op, t.nodes) for t in found.times] == [
        ("Softplus", ("twice->a",)),
        ("Softsign", ("twice->a",)),
        ("Tanh", ("Tanh->y",)),
    ]


@pytest.mark.parametrize("external", [False, True])
def test_nodes_without_names_are_told_apart(tmp_path: Path, external: bool) -> None:
    text = "m (float[4, 64] x) => (float[4, 64] y) { a = MatMul (x, w) b = MatMul (a, w) y = MatMul (b, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.append(weight("w", 64, 64))
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=external, location="m.bin", size_threshold=0)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    found = profile(path, [rows()], ONE, runs=3)
    assert [t.nodes for t in found.times] == [("MatMul->a",), ("MatMul->b",), ("MatMul->y",)]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_without_the_executed_graph_only_names_tell(tmp_path: Path) -> None:
    onnx.save(branching(fixed=False), tmp_path / "m.onnx")
    kernels = [Kernel(name, "Mul", "CPUExecutionProvider", 1.0) for name in ("mix", "inner", "compiled_0")]
    assert attribute(load(tmp_path / "m.onnx"), kernels, None) == [("mix",), ("inner",), ()]
