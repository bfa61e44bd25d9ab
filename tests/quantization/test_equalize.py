import numpy as np
import onnx
import pytest

from onnxopt.quantization.fixes.equalize import Equalize
from onnxopt.quantization.static import StaticQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
CHAIN = (
    HEAD
    + """(float[N,4,8,8] x) => (float[N,5] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu(a)
    d = Conv <pads=[1,1,1,1], group=8> (r, w2, b2)  s = Relu(d)
    p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (s)
    c = Conv (p, w3, b3)  f = Flatten(c)  y = Gemm <transB=1> (f, w4, b4) }"""
)
RESIDUAL = (
    HEAD
    + """(float[N,4,8,8] x) => (float[N,4,8,8] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)
    b = Conv <pads=[1,1,1,1]> (r, w2)  s = Add(r, b)  t = Relu(s)
    y = Conv <pads=[1,1,1,1]> (t, w3) }"""
)


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def lopsided(rng, count):
    return np.exp(rng.standard_normal(count) * 1.5).astype(np.float32)


def chain(rng):
    """A Conv, depthwise Conv, Conv, Gemm chain with very uneven channels."""
    s1, s2 = lopsided(rng, 8), lopsided(rng, 8)
    return {
        "w1": weight(rng, 8, 4, 3, 3) * s1[:, None, None, None],
        "b1": weight(rng, 8, 1)[:, 0] * s1,
        "w2": weight(rng, 8, 1, 3, 3) * (s2 / s1)[:, None, None, None],
        "b2": weight(rng, 8, 1)[:, 0] * s2,
        "w3": weight(rng, 6, 8, 1, 1) / s2[None, :, None, None],
        "b3": weight(rng, 6, 1)[:, 0],
        "w4": weight(rng, 5, 96),
        "b4": weight(rng, 5, 1)[:, 0],
    }


def images(rng, count=8):
    return [{"x": rng.standard_normal((2, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


def residual(rng):
    return {name: weight(rng, 4, 4, 3, 3) * lopsided(rng, 4)[:, None, None, None] for name in ("w1", "w2", "w3")}


def test_the_function_of_a_chain_stays(lab, rng):
    data = images(rng)
    result = lab.run(Equalize(), lab.build(CHAIN, **chain(rng)), data)
    assert result.changes == 3
    for feeds in data:
        a, b = (lab.outputs(path, feeds)[0] for path in (lab.source, lab.result))
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def test_int8_of_uneven_channels_is_saved(lab, rng):
    data, weights = images(rng), chain(rng)
    lab.run(StaticQuantize(), lab.build(CHAIN, **weights), data)
    before = lab.sqnr_db(data)
    model = lab.run(Equalize(), lab.build(CHAIN, **weights), data).model
    lab.run(StaticQuantize(), model, data)
    assert lab.sqnr_db(data) > before + 6


def test_a_residual_stream_is_scaled_as_one(lab, rng):
    data = images(rng)
    result = lab.run(Equalize(), lab.build(RESIDUAL, **residual(rng)), data)
    assert result.changes == 1
    assert lab.sqnr_db(data) > 100


def test_it_has_nothing_to_do_twice(lab, rng):
    data = images(rng)
    model = lab.run(Equalize(), lab.build(CHAIN, **chain(rng)), data).model
    assert lab.run(Equalize(), model, data).changes == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = Conv(x, w1)  s = Sigmoid(a)  b = Mul(a, s)  y = Conv(a, w2)", "does not pass the Sigmoid"),
        ("a = Conv(x, w1)  y = Conv(a, w1)", "shared"),
        ("a = Conv(x, w1)  c = Clip(a, zero, six)  y = Conv(c, w2)", "does not pass the Clip"),
        ("a = Conv(x, bad)  y = Conv(a, w2)", "NaN or infinity"),
        ("w3 = Neg(w1)  a = Conv(x, w1)  y = Conv(a, w3)", None),
    ],
)
def test_what_cannot_be_scaled_is_left_with_a_reason(lab, rng, text, reason):
    bad = weight(rng, 4, 4, 1, 1)
    bad[0] = np.nan
    weights = {
        "w1": weight(rng, 4, 4, 1, 1) * lopsided(rng, 4)[:, None, None, None],
        "w2": weight(rng, 4, 4, 1, 1),
        "bad": bad,
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    weights = {name: np.asarray(w) for name, w in weights.items() if name in text}
    model = lab.build(HEAD + "(float[N,4,8,8] x) => (float[N,4,8,8] y) { " + text + " }", **weights)
    result = lab.run(Equalize(), model, images(rng))
    assert result.changes == 0
    assert reason is None or any(reason in note.reason for note in result.notes)


@pytest.mark.parametrize("listed", ["input", "output"])
def test_weights_that_are_inputs_or_outputs_are_left(lab, rng, listed):
    lab.build(RESIDUAL, **residual(rng))
    proto = onnx.load(lab.source)
    spec = onnx.helper.make_tensor_value_info("w2", onnx.TensorProto.FLOAT, [4, 4, 3, 3])
    getattr(proto.graph, listed).append(spec)
    onnx.save(proto, lab.source)
    from onnxopt.core.io import load

    result = lab.run(Equalize(), load(lab.source), images(rng))
    assert result.changes == 0
    assert lab.sqnr_db(images(rng)) == float("inf")


def test_a_shared_bias_is_copied(lab, rng):
    text = HEAD + "(float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, w1, b)  r = Relu(a)  y = Conv(r, w2, b) }"
    uneven = weight(rng, 4, 4, 1, 1) * lopsided(rng, 4)[:, None, None, None]
    model = lab.build(text, w1=uneven, w2=weight(rng, 4, 4, 1, 1), b=weight(rng, 4, 1)[:, 0])
    assert lab.run(Equalize(), model, images(rng)).changes == 1
    assert lab.sqnr_db(images(rng)) > 100


def test_weights_in_constant_nodes_are_scaled(lab, rng):
    lab.build(RESIDUAL, **residual(rng))
    proto = onnx.load(lab.source)
    nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    del proto.graph.initializer[:]
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)
    onnx.save(proto, lab.source)
    from onnxopt.core.io import load

    assert lab.run(Equalize(), load(lab.source), images(rng)).changes == 1
    assert lab.sqnr_db(images(rng)) > 100
