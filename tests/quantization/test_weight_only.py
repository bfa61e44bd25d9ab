"""Weight-only quantization of whole graphs."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.core.io import load
from onnxopt.errors import UsageError
from onnxopt.quantization.weight_only.blocks import BlockGrid
from onnxopt.quantization.weight_only.grams import stream_grams
from onnxopt.quantization.weight_only.rounding import rtn
from onnxopt.quantization.weight_only.weights import WeightQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
EIGHT = WeightQuantize("rtn", 8, 32)


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def feeds(rng, *shape, count=4):
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def floats(path):
    """Values of the float initializers of the main graph."""
    return sum(int(np.prod(i.dims)) for i in onnx.load(path).graph.initializer if i.data_type == 1)


@pytest.mark.parametrize("algorithm", ["rtn", "hqq", "gptq"])
@pytest.mark.parametrize(("bits", "least_db"), [(4, 16), (8, 35)])
def test_matmul_and_gemm_become_one_kernel_each(lab, rng, algorithm, bits, least_db):
    text = (
        HEAD
        + """(float[N,T,48] x) => (float[N,T,64] y, float[M,24] z) {
        h = MatMul(x, w1)  y = Add(h, b1)  f = Reshape(y, s)  z = Gemm <transB=1, alpha=0.5> (f, w2, b2) }"""
    )
    arrays = {"w1": weight(rng, 48, 64), "b1": weight(rng, 64, 1).ravel(), "s": np.array([-1, 64])}
    arrays |= {"w2": weight(rng, 64, 24).T.copy(), "b2": weight(rng, 24, 1).reshape(1, 24)}
    data = feeds(rng, 2, 5, 48)
    result = lab.run(WeightQuantize(algorithm, bits, 16), lab.build(text, **arrays), data)
    assert result.changes == 2 and not result.notes
    kernels = lab.kernels()
    assert kernels["MatMulNBits"] == 2
    assert not kernels.keys() & {"MatMul", "Gemm", "FusedMatMul"}
    assert kernels["Add"] < 2, "a bias of one value for each channel goes into the kernel"
    assert lab.sqnr_db(data) > least_db


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_gemm_is_what_its_rounded_weights_give(lab, rng, transposed, bias):
    text = HEAD + f"(float[N,64] x) => (float[N,8] y) {{ y = Gemm <transB={transposed}, alpha=1.5> (x, w{bias}) }}"
    values, b = weight(rng, 64, 8), weight(rng, 8, 1).ravel()
    arrays = {"w": values.T.copy() if transposed else values, **({"b": b} if bias else {})}
    data = feeds(rng, 3, 64)
    lab.run(EIGHT, lab.build(text, **arrays), data)
    rounded = rtn(values.T.copy(), BlockGrid(8, 32)).dequantized()
    expected = 1.5 * data[0]["x"] @ rounded.T + (b if bias else 0)
    assert np.abs(lab.outputs(lab.result, data[0])[0] - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_is_looked_up_in_blocks_and_a_small_one_is_left(lab, rng, bits):
    text = (
        HEAD
        + """(int64[N,T] x) => (float[N,T,48] y) {
        a = Gather(large, x)  b = Gather(small, x)  y = Add(a, b) }"""
    )
    model = lab.build(text, large=weight(rng, 512, 48) * 20, small=weight(rng, 8, 48) * 20)
    data = [{"x": rng.integers(0, 8, (2, 5))}]
    assert lab.run(WeightQuantize("hqq", bits, 16), model, data).changes == 1
    assert lab.kernels()["GatherBlockQuantized"] == 1
    assert lab.sqnr_db(data) > (20 if bits == 4 else 40)


def test_a_shared_weight_is_stored_once_and_its_grams_are_added(lab, rng):
    text = (
        HEAD
        + """(float[N,64] x) => (float[N,64] y, float[N,64] z) {
        y = MatMul(x, w)  r = Relu(y)  z = Gemm <alpha=2.0> (r, w) }"""
    )
    data = feeds(rng, 8, 64)
    assert lab.run(WeightQuantize("gptq", 8, 32), lab.build(text, w=weight(rng, 64, 64)), data).changes == 2
    proto = onnx.load(lab.result)
    codes = {n.input[1] for n in proto.graph.node if n.op_type == "MatMulNBits"}
    assert lab.sqnr_db(data) > 35
    assert floats(lab.result) == 2 * 64 * 2, "scales, once for each alpha"
    assert len(codes) == 1


def test_a_weight_that_something_else_needs_in_float_stays(lab, rng):
    text = HEAD + """(float[N,64] x) => (float[N,64] y, float[64,64] z) { y = MatMul(x, w)  z = Relu(w) }"""
    result = lab.run(EIGHT, lab.build(text, w=weight(rng, 64, 64)), feeds(rng, 8, 64))
    assert result.changes == 0
    assert "reads its weight too" in result.notes[0].reason


def test_why_the_others_stay_float(lab, rng):
    text = (
        HEAD
        + """(float[N,32] x, float[32,64] v) => (float[N,64] a, float[1,N,64] b, float[N,2] c, float[N,64] d) {
        a = MatMul(x, v)  b = MatMul(x, w3)  c = MatMul(x, w)  q = MatMul(x, nan)  d = Relu(q) }"""
    )
    arrays = {"w3": weight(rng, 1, 32, 64), "w": weight(rng, 32, 2), "nan": np.full((32, 64), np.nan, np.float32)}
    model = lab.build(text, **arrays)
    result = WeightQuantize("rtn", 4, 256).run(model, lab.context(feeds(rng, 4, 32)))
    reasons = [note.reason for note in result.notes]
    assert result.changes == 0
    for words in ("is a graph input", "3 dimensions", "would not get smaller", "NaN"):
        assert any(words in reason for reason in reasons), (words, reasons)


def test_nested_graphs_and_local_functions(lab, rng):
    text = (
        HEAD
        + """(float[4,64] x, bool c) => (float[4,64] z) {
        z = If (c) <then_branch = t () => (float[4,64] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[4,64] b) { n = Neg(x)  b = MatMul(n, w) }> }"""
    )
    data = [{**feed, "c": np.array(c)} for c, feed in zip((True, False), feeds(rng, 4, 64), strict=False)]
    assert lab.run(WeightQuantize("gptq", 8, 32), lab.build(text, w=weight(rng, 64, 64)), data).changes == 2
    assert lab.sqnr_db(data) > 35
    assert floats(lab.result) == 0
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[4,64] x) => (float[4,64] z) {
        y = local.linear(x)  z = local.linear(y) }
        <domain: "local", opset_import: ["" : 17]> linear (a) => (b) { w = Constant()  b = MatMul(a, w) }"""
    proto = onnx.parser.parse_model(text)
    values = numpy_helper.from_array(weight(rng, 64, 64), "w")
    proto.functions[0].node[0].attribute.append(onnx.helper.make_attribute("value", values))
    onnx.save(proto, lab.source)
    data = feeds(rng, 4, 64)
    assert lab.run(EIGHT, load(lab.source), data).changes == 1
    assert lab.sqnr_db(data) > 35


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21, 24])
def test_operator_sets(lab, rng, opset):
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,64] x) => (float[N,32] z) {{'
    data = feeds(rng, 4, 64)
    arrays = {"w": weight(rng, 64, 64), "v": weight(rng, 64, 32), "b": weight(rng, 32, 1).ravel()}
    model = lab.build(f"{text} y = MatMul(x, w)  r = Relu(y)  z = Gemm(r, v, b) }}", **arrays)
    assert lab.run(EIGHT, model, data).changes == 2
    assert lab.sqnr_db(data) > 35
    assert {o.domain: o.version for o in onnx.load(lab.result).opset_import}[""] == opset


def test_an_output_and_a_vector_keep_their_form(lab, rng):
    text = HEAD + "(float[64] x) => (float[32] y) { y = MatMul(x, w) }"
    data = feeds(rng, 64)
    lab.run(EIGHT, lab.build(text, w=weight(rng, 64, 32)), data)
    assert lab.outputs(lab.result, data[0])[0].shape == (32,)
    assert [o.name for o in onnx.load(lab.result).graph.output] == ["y"]


def test_excluded_nodes_stay_and_a_second_run_changes_nothing(lab, rng):
    text = HEAD + "(float[N,64] x) => (float[N,64] z) { y = MatMul(x, w)  z = Gemm(y, v) }"
    arrays = {"w": weight(rng, 64, 64), "v": weight(rng, 64, 64)}
    data = feeds(rng, 4, 64)
    assert lab.run(WeightQuantize("rtn", 8, exclude=("Gemm",)), lab.build(text, **arrays), data).changes == 1
    model = lab.build(text, **arrays)
    with pytest.raises(UsageError, match="matches no node"):
        WeightQuantize(exclude=("Conv",)).run(model, lab.context(data))
    lab.run(EIGHT, model, data)
    before = lab.result.read_bytes()
    assert lab.run(EIGHT, load(lab.result), data).changes == 0
    assert lab.result.read_bytes() == before


def test_gptq_lowers_the_error_of_a_model_on_samples_that_it_has_not_seen(lab, rng):
    text = HEAD + "(float[N,96] x) => (float[N,32] z) { h = MatMul(x, w)  r = Relu(h)  z = MatMul(r, v) }"
    mix = rng.standard_normal((96, 96)) * np.linspace(0.02, 1, 96)
    data = [{"x": (rng.standard_normal((64, 96)) @ mix).astype(np.float32)} for _ in range(12)]
    arrays = {"w": weight(rng, 96, 128), "v": weight(rng, 128, 32)}
    found = {}
    for algorithm in ("rtn", "hqq", "gptq"):
        lab.run(WeightQuantize(algorithm, 4, 32), lab.build(text, **arrays), data[:8])
        found[algorithm] = lab.sqnr_db(data[8:])
    assert found["gptq"] > found["hqq"] + 1
    assert found["hqq"] > found["rtn"]


def test_grams_do_not_depend_on_how_many_are_held_at_once(lab, rng):
    text = HEAD + "(float[N,32] x) => (float[N,16] z) { h = MatMul(x, w)  r = Relu(h)  z = MatMul(r, v) }"
    model = lab.build(text, w=weight(rng, 32, 48), v=weight(rng, 48, 16))
    data = feeds(rng, 5, 32)
    ctx = lab.context(data)
    wanted = [(("x",), 32), (("r",), 48)]
    one, all_ = (dict(stream_grams(model, wanted, ctx.data, ctx, budget_bytes=b)) for b in (1, 1 << 30))
    x = np.concatenate([f["x"] for f in data]).astype(np.float64)
    np.testing.assert_allclose(one["x",], x.T @ x, rtol=1e-5, atol=1e-5)
    assert one.keys() == all_.keys()
    for key, gram in one.items():
        assert (gram == all_[key]).all()


def test_conv_stays_float_and_says_so(lab, rng):
    text = HEAD + "(float[N,8,4,4] x) => (float[N,16,4,4] y) { y = Conv(x, w) }"
    result = WeightQuantize().run(lab.build(text, w=weight(rng, 16, 8, 1, 1)), lab.context(feeds(rng, 1, 8, 4, 4)))
    assert result.changes == 0
    assert result.notes[0].reason == "no kernel of Conv takes weights in blocks"
