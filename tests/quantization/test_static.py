import numpy as np
import onnx
import pytest

from onnxopt.errors import DataError, UsageError
from onnxopt.passes.base import Context
from onnxopt.quantization.select import stems
from onnxopt.quantization.static import StaticQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
ONE = HEAD + "(float[N,8,8,8] x) => (float[N,8,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w) }"


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def images(rng, channels=8, count=4):
    return [{"x": rng.standard_normal((1, channels, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_a_quantized_graph_output_keeps_name_and_value(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x) => (float[N,8,8,8] y, float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w)  r = Relu(y)  z = Conv <pads=[1,1,1,1]> (r, w) }"""
    )
    data = images(rng)
    lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 8, 8, 3, 3)), data)
    assert [o.name for o in onnx.load(lab.result).graph.output] == ["y", "z"]
    assert lab.sqnr_db(data) > 28


def test_a_shared_weight_is_stored_once(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x) => (float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w)  r = Relu(y)  z = Conv <pads=[1,1,1,1]> (r, w) }"""
    )
    lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 8, 8, 3, 3)), images(rng))
    stored = [i for i in onnx.load(lab.result).graph.initializer if list(i.dims) == [8, 8, 3, 3]]
    assert [i.data_type for i in stored] == [onnx.TensorProto.INT8]


def test_a_shared_weight_with_biases_that_need_other_scales_stays_right(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x) => (float[N,8,8,8] y, float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w, b1)  z = Conv <pads=[1,1,1,1]> (x, w, b2) }"""
    )
    shared = weight(rng, 8, 8, 3, 3)
    shared[0] *= 1e-8
    data = images(rng)
    biases = {"b1": np.zeros(8, np.float32), "b2": np.full(8, 1000.0, np.float32)}
    lab.run(StaticQuantize(), lab.build(text, w=shared, **biases), data)
    first, second = lab.outputs(lab.result, data[0])
    assert np.abs(second[0, 0] - 1000).max() < 10
    expected = lab.outputs(lab.source, data[0])[0]
    assert np.abs(first - expected).max() < 0.1


def test_a_channel_without_weights_keeps_its_bias(lab, rng):
    text = HEAD + "(float[N,8,8,8] x) => (float[N,8,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w, b) }"
    dead = weight(rng, 8, 8, 3, 3)
    dead[3] = 0
    bias = np.zeros(8, np.float32)
    bias[3] = 1.25
    data = images(rng)
    lab.run(StaticQuantize(), lab.build(text, w=dead, b=bias), data)
    assert np.abs(lab.outputs(lab.result, data[0])[0][0, 3] - 1.25).max() < 0.03


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_activations_survive(lab, rng, value):
    data = [{"x": np.full((1, 8, 8, 8), value, np.float32)}]
    lab.run(StaticQuantize(), lab.build(ONE, w=weight(rng, 8, 8, 3, 3)), data)
    assert np.isfinite(lab.outputs(lab.result, data[0])[0]).all()
    assert lab.sqnr_db(data) > 25


def test_a_value_read_in_a_branch_is_dequantized_there(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x, bool c) => (float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w)
        z = If (c) <then_branch = t () => (float[N,8,8,8] a) { a = Relu(y) },
                    else_branch = e () => (float[N,8,8,8] b) { b = Neg(y) }> }"""
    )
    data = [{**feed, "c": np.array(i % 2 == 0)} for i, feed in enumerate(images(rng))]
    lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 8, 8, 3, 3)), data)
    assert lab.kernels()["QLinearConv"] == 1
    assert lab.sqnr_db(data) > 28


def test_an_old_opset_is_raised_for_scales_per_channel(lab, rng):
    text = (
        '<ir_version: 4, opset_import: ["" : 9]> g '
        "(float[1,8,8,8] x) => (float[1,10] y) {"
        "  a = Conv <pads=[1,1,1,1]> (x, w)  r = Relu(a)  m = GlobalAveragePool(r)  f = Flatten(m)"
        "  y = Gemm <transB=1> (f, w2, b2) }"
    )
    arrays = {"w": weight(rng, 8, 8, 3, 3), "w2": weight(rng, 10, 8), "b2": np.zeros(10, np.float32)}
    data = images(rng)
    assert lab.run(StaticQuantize(), lab.build(text, **arrays), data).changes == 2
    assert onnx.load(lab.result).opset_import[0].version == 13
    assert lab.kernels()["QLinearConv"] == 1
    assert lab.sqnr_db(data) > 28


def test_what_stays_float_is_named_with_the_reason(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x, float[8,8,3,3] v) => (float[N,8,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w)  y = Conv <pads=[1,1,1,1]> (a, v) }"""
    )
    model = lab.build(text, w=weight(rng, 8, 8, 3, 3))
    model.graph[1].name = "free"
    data = [{**feed, "v": weight(rng, 8, 8, 3, 3)} for feed in images(rng)]
    result = lab.run(StaticQuantize(), model, data)
    assert [(n.node, n.verdict, n.reason) for n in result.notes] == [("free", "float", "its weight is a graph input")]


def test_excluded_nodes_stay_float_and_a_pattern_without_a_match_is_an_error(lab, rng, tmp_path):
    text = (
        HEAD
        + """(float[N,8,8,8] x) => (float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w)  z = Conv <pads=[1,1,1,1]> (y, w) }"""
    )
    model = lab.build(text, w=weight(rng, 8, 8, 3, 3))
    model.graph[0].name, model.graph[1].name = "first", "second"
    result = lab.run(StaticQuantize(exclude=("fir*",)), model.clone(), images(rng))
    assert result.changes == 1
    assert [n.node for n in result.notes] == ["first"]
    with pytest.raises(UsageError, match="did you mean 'first'"):
        lab.run(StaticQuantize(exclude=("frist",)), model.clone(), images(rng))
    with pytest.raises(DataError, match="needs data"):
        StaticQuantize().run(model, Context(tmp_path))


def test_nodes_at_activations_that_are_not_finite_stay_float(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x) => (float[N,8,8,8] y, float[N,8,8,8] z) {
        l = Log(x)  n = Conv <pads=[1,1,1,1]> (l, w)  r = Relu(n)  y = Conv <pads=[1,1,1,1]> (r, w)
        z = Conv <pads=[1,1,1,1]> (x, w) }"""
    )
    data = [{"x": np.zeros((1, 8, 8, 8), np.float32)}, *images(rng)]
    result = lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 8, 8, 3, 3)), data)
    assert result.changes == 1, "only the Conv that reads x"
    assert {n.node for n in result.notes if "NaN or infinite" in n.reason} == {"Conv->n", "Conv->y"}


def test_the_stem_is_the_first_conv_of_few_channels_and_the_depthwise_one_behind_it(lab, rng):
    text = (
        HEAD
        + """(float[N,3,8,8] x) => (float[N,3,8,8] z) {
        s = Conv <pads=[1,1,1,1]> (x, w3)  r = Relu(s)  d = Conv <group=8, pads=[1,1,1,1]> (r, wd)
        e = Conv <group=8, pads=[1,1,1,1]> (d, wd)  p = Conv (e, w8)
        z = Conv <pads=[1,1,1,1]> (p, wf) }"""
    )
    model = lab.build(
        text,
        w3=weight(rng, 8, 3, 3, 3),
        wd=weight(rng, 8, 1, 3, 3),
        w8=weight(rng, 3, 8, 1, 1),
        wf=weight(rng, 3, 3, 3, 3),
    )
    convs = [n for n in model.graph if n.op_type == "Conv"]
    assert stems(model) == {convs[0], convs[1]}, "neither a later depthwise Conv nor a later one of few channels"
    assert lab.run(StaticQuantize(float_stem=True), model, images(rng, channels=3)).changes == 3


def test_the_same_inputs_give_the_same_bytes_in_any_order(lab, rng):
    arrays, data = {"w": weight(rng, 8, 8, 3, 3)}, images(rng)
    lab.run(StaticQuantize(), lab.build(ONE, **arrays), data)
    first = lab.result.read_bytes()
    lab.run(StaticQuantize(), lab.build(ONE, **arrays), data[::-1])
    assert lab.result.read_bytes() == first
