"""The graph as a torch module: gradients, weights, and the way back into the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

from onnxopt.core.io import load, save
from onnxopt.errors import ModelError
from onnxopt.recover.bridge.module import Bridge
from tests.cli.sample_models import cnn, mlp, normal, parsed, write

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
GRADIENTS = {
    "Conv": ("(double[1,2,5,5] x, double[2,2,3,3] w, double[2] b) => (double y) { y = Conv<pads=[1,0,1,0]>(x, w, b) }"),
    "ConvTranspose": "(double[1,2,3,3] x, double[2,1,3,3] w) => (double y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
    "Gemm": "(double[2,3] x, double[4,3] w, double[4] b) => (double y) { y = Gemm<transB=1, alpha=0.5>(x, w, b) }",
    "AveragePool": """(double[1,1,5,5] x) => (double y) {
        y = AveragePool<kernel_shape=[2,2], ceil_mode=1, strides=[2,2]>(x) }""",
    "LayerNormalization": "(double[2,4] x, double[4] s, double[4] b) => (double y) { y = LayerNormalization(x, s, b) }",
    "LRN": "(double[1,4,2,2] x) => (double y) { y = LRN<size=3>(x) }",
    "Resize": """(double[1,1,3,3] x) => (double y) {
        s = Constant<value_floats=[1.0,1.0,1.5,2.0]>()  y = Resize<mode="cubic">(x, , s) }""",
    "LSTM": """(double[3,2,2] x, double[1,8,2] w, double[1,8,2] r, double[1,16] b) => (double y) {
        y = LSTM<hidden_size=2>(x, w, r, b) }""",
    "GRU": """(double[3,2,2] x, double[1,6,2] w, double[1,6,2] r, double[1,12] b) => (double y) {
        y = GRU<hidden_size=2>(x, w, r, b) }""",
    "Softmax": "(double[2,3] x) => (double y) { y = Softmax<axis=0>(x) }",
    "GatherND": "(double[3,2] x) => (double y) { i = Constant<value_ints=[2,0]>()  y = GatherND(x, i) }",
    "Einsum": '(double[2,3] x, double[3,2] w) => (double y) { y = Einsum<equation="ij,jk->ik">(x, w) }',
}


def bridge_of(model: onnx.ModelProto, tmp_path: Path, **options: object) -> Bridge:
    return Bridge(load(write(model, tmp_path / "m.onnx")), **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("text", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_are_those_of_finite_differences(text: str, tmp_path: Path) -> None:
    model = parser.parse_model(HEAD + text)
    bridge = bridge_of(model, tmp_path)
    names = [v.name for v in model.graph.input]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    values = [torch.from_numpy(normal(*s, seed=i).astype(np.float64)).requires_grad_() for i, s in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *v: bridge(dict(zip(names, v, strict=True)))["y"], values)


def test_rounding_lets_gradients_through_and_saturation_does_not(tmp_path: Path) -> None:
    text = """(float[3] x) => (float[3] y) { s = Constant<value_float=0.1>() q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z) }"""
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "z"))
    x = torch.tensor([0.04, -0.26, 99.0], requires_grad=True)
    y = bridge_of(model, tmp_path)({"x": x})["y"]
    y.sum().backward()
    assert torch.allclose(y, torch.tensor([0.0, -0.3, 12.7]))
    assert x.grad is not None and x.grad.tolist() == pytest.approx([1, 1, 0])


def test_the_outputs_are_those_of_the_runtime(tmp_path: Path) -> None:
    path = write(cnn(), tmp_path / "m.onnx")
    x = normal(3, 3, 8, 8, seed=4)
    (expected,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(Bridge(load(path)).run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)


def test_statistics_of_batch_normalization_are_no_weights(tmp_path: Path) -> None:
    assert [w.name for w in bridge_of(cnn(), tmp_path).weights] == ["w1", "b1", "s", "t", "w2", "b2"]


def test_what_normalises_the_input_and_masks_and_single_numbers_are_no_weights(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
        a = Sub(x, mean)  b = Div(a, std)  c = MatMul(b, w)  d = Add(c, bias)  e = Mul(d, two)  y = Add(e, mask) }"""
    ones = np.ones(4, np.float32)
    mask = np.array([0, 0, 0, -np.inf], np.float32)
    weights = {"mean": ones, "std": ones, "w": normal(4, 4), "bias": ones, "two": ones[:1], "mask": mask}
    assert [w.name for w in bridge_of(parsed(text, weights), tmp_path).weights] == ["w", "bias"]


def test_a_weight_that_two_nodes_read_is_one_parameter(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
        a = MatMul(x, w)  t = Transpose(w)  y = MatMul(a, t) }"""
    bridge = bridge_of(parsed(text, {"w": normal(4, 4)}), tmp_path)
    assert len(list(bridge.parameters())) == 1
    bridge(bridge.feed({"x": normal(2, 4)}))["y"].sum().backward()
    assert bridge.weights[0].parameter.grad is not None


def test_untrained_weights_leave_the_file_as_it_was_byte_for_byte(tmp_path: Path) -> None:
    path = write(cnn(), tmp_path / "m.onnx")
    model = load(path)
    save(model, tmp_path / "before.onnx")
    assert Bridge(model).write(model) == 0
    save(model, tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()


def test_only_values_of_weights_change_in_the_file(tmp_path: Path) -> None:
    path = write(cnn(), tmp_path / "m.onnx")
    model = load(path)
    save(model, tmp_path / "before.onnx")
    bridge = Bridge(model)
    with torch.no_grad():
        bridge.weights[0].parameter.add_(1)
    assert bridge.write(model) == 1
    save(model, tmp_path / "after.onnx")
    before, after = onnx.load(tmp_path / "before.onnx"), onnx.load(tmp_path / "after.onnx")
    first, second = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (before, after))
    np.testing.assert_array_equal(second["w1"], first["w1"] + 1)
    del before.graph.initializer[0], after.graph.initializer[0]
    assert before == after


def test_weights_in_constant_nodes_are_trained_and_written(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(normal(4, 2), "w"))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", 4), ("y", 2)))
    model = helper.make_model(
        helper.make_graph([node, product], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    own = load(write(model, tmp_path / "m.onnx"))
    bridge = Bridge(own)
    with torch.no_grad():
        bridge.weights[0].parameter.zero_()
    assert bridge.write(own) == 1
    assert not Bridge(own).run({"x": normal(3, 4)})["y"].any()


def test_integer_weights_are_trained_on_their_grid(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,2] y) {
        d = DequantizeLinear<axis=0>(w, s)  t = Transpose(d)  y = MatMul(x, t) }"""
    codes = np.array([[7, -8, 3, 0], [1, 2, -3, 4]], np.int8)
    model = parsed(text, {"s": np.array([0.5, 0.25], np.float32)})
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [2, 4], codes.ravel()))
    own = load(write(model, tmp_path / "m.onnx"))
    bridge = Bridge(own)
    (weight,) = bridge.weights
    assert weight.grid is not None and weight.parameter.tolist() == [[3.5, -4, 1.5, 0], [0.25, 0.5, -0.75, 1]]
    assert bridge.write(own) == 0
    with torch.no_grad():
        weight.parameter.add_(torch.tensor([[9.0, 0, 0.2, 0.3], [0, 0, 0, 0.2]]))
    assert bridge.write(own) == 1
    assert own.graph.initializers["w"].const_value.numpy().astype(int).tolist() == [[7, -8, 3, 1], [1, 2, -3, 5]]
    save(own, tmp_path / "o.onnx")
    x = normal(3, 4)
    (expected,) = ort.InferenceSession(tmp_path / "o.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(bridge.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zeros", [False, True])
def test_weights_in_blocks_are_trained_and_packed_again(zeros: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(0, 256, (3, 2, 8), np.uint8), "s": normal(3, 2, seed=1)}
    weights |= {"z": rng.integers(0, 256, (3, 1), np.uint8)} if zeros else {}
    text = f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,20] x) => (float[N,3] y) {{
        y = com.microsoft.MatMulNBits<K=20, N=3, bits=4, block_size=16>(x, w, s{", z" if zeros else ""}) }}"""
    weights["w"][:, 1, 2:] = 0  # what fills up the last block
    path = write(parsed(text, weights), tmp_path / "m.onnx")
    own, x = load(path), normal(2, 20, seed=3)
    bridge = Bridge(own)
    (expected,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(bridge.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    assert bridge.write(own) == 0
    with torch.no_grad():
        bridge.weights[0].parameter.mul_(0.5)
    assert bridge.write(own) == 1
    save(own, tmp_path / "o.onnx")
    (found,) = ort.InferenceSession(tmp_path / "o.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(bridge.run({"x": x})["y"], found, rtol=1e-4, atol=1e-5)


def test_16_bit_weights_are_trained_in_32_bits_and_written_in_16(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float16[N,4] x) => (float16[N,2] y) { y = MatMul(x, w) }'
    own = load(write(parsed(text, {"w": normal(4, 2).astype(np.float16)}), tmp_path / "m.onnx"))
    bridge = Bridge(own)
    assert bridge.weights[0].parameter.dtype == torch.float32
    assert bridge.run({"x": normal(1, 4).astype(np.float16)})["y"].dtype == np.float16
    with torch.no_grad():
        bridge.weights[0].parameter.fill_(0.1)
    bridge.write(own)
    assert own.graph.initializers["w"].const_value.numpy().dtype == np.float16


def test_functions_are_inlined(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,4] x) => (float[N,4] y) { y = own.f(x, w) }
        <opset_import: ["" : 17], domain: "own"> f (a, b) => (c) { m = MatMul(a, b)  c = Relu(m) }"""
    bridge = bridge_of(parsed(text, {"w": normal(4, 4)}), tmp_path)
    assert [w.name for w in bridge.weights] == ["w"]


def test_an_unknown_operator_is_named_with_its_node(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y, int64[M] z) {
        y = MatMul(x, w)  [odd] u, v, k, z = Unique(y) }"""
    with pytest.raises(ModelError, match="Unique") as caught:
        bridge_of(parsed(text, {"w": normal(4, 4)}), tmp_path)
    assert "odd" in caught.value.where
    assert bridge_of(
        parsed(text, {"w": normal(4, 4)}), tmp_path, outputs=["y"]
    ).weights  # what is not needed is left out


def test_a_node_that_cannot_take_its_inputs_is_named(tmp_path: Path) -> None:
    bridge = bridge_of(mlp(), tmp_path)
    with pytest.raises(ModelError, match="torch") as caught:
        bridge.run({"x": normal(2, 3)})
    assert "MatMul" in caught.value.where
