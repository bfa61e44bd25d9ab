"""Static INT8 inside If, Loop, Scan and local functions: what ONNX Runtime runs there, and that ranges are real."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.core.io import load
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.nested import expose

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '


def weight(rng, *shape):
    fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def images(rng, count=4):
    return [{"x": rng.standard_normal((1, 8, 8, 8)).astype(np.float32)} for _ in range(count)]


def optimized(lab) -> Counter[str]:
    """Operators at all depths of what ONNX Runtime executes."""
    lab.kernels()

    def walk(graph) -> Iterator[str]:
        for node in graph.node:
            yield node.op_type
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from walk(attribute.g)

    return Counter(walk(onnx.load(lab.folder / "optimized.onnx").graph))


BRANCHES = (
    HEAD
    + """(float[N,8,8,8] x, bool c) => (float[N,8,8,8] z) {
    z = If (c) <then_branch = t () => (float[N,8,8,8] o) {
                    a = Conv <pads=[1,1,1,1]> (x, w, b)  r = Relu(a)  o = Conv <pads=[1,1,1,1]> (r, w) },
                else_branch = e () => (float[N,8,8,8] o) { a = Conv <pads=[1,1,1,1]> (x, w)  o = Neg(a) }> }"""
)


def test_both_branches_run_on_integers_with_one_copy_of_the_weight(lab, rng):
    data = [{**feed, "c": np.array(i % 2 == 0)} for i, feed in enumerate(images(rng))]
    model = lab.build(BRANCHES, w=weight(rng, 8, 8, 3, 3), b=weight(rng, 8, 1).ravel())
    assert lab.run(StaticQuantize(), model, data).changes == 3
    kernels = optimized(lab)
    assert kernels["QLinearConv"] == 3
    assert not kernels.keys() & {"Conv", "FusedConv", "Relu"}
    assert lab.sqnr_db(data) > 28
    stored = [i for i in onnx.load(lab.result).graph.initializer if list(i.dims) == [8, 8, 3, 3]]
    assert [i.data_type for i in stored] == [onnx.TensorProto.INT8]


def test_a_branch_that_no_sample_takes_stays_float(lab, rng):
    data = [{**feed, "c": np.array(True)} for feed in images(rng)]
    result = lab.run(
        StaticQuantize(), lab.build(BRANCHES, w=weight(rng, 8, 8, 3, 3), b=weight(rng, 8, 1).ravel()), data
    )
    assert result.changes == 2
    assert [n.reason for n in result.notes] == ["no calibration sample reaches it"]
    other = [{**data[0], "c": np.array(False)}]
    assert lab.sqnr_db(other) == float("inf"), "computed in float as before"


def test_what_the_main_graph_has_quantized_is_read_as_codes_in_the_body(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x, bool c) => (float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w)
        z = If (c) <then_branch = t () => (float[N,8,8,8] a) { a = Conv <pads=[1,1,1,1]> (y, w) },
                    else_branch = e () => (float[N,8,8,8] b) { p = Conv <pads=[1,1,1,1]> (x, w)  b = Add(p, y) }> }"""
    )
    data = [{**feed, "c": np.array(i % 2 == 0)} for i, feed in enumerate(images(rng))]
    assert lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 8, 8, 3, 3)), data).changes == 3
    kernels = optimized(lab)
    assert kernels["QLinearConv"] == 3
    assert kernels["QLinearAdd"] == 1
    assert kernels["QuantizeLinear"] == 1, "only the input of the model"
    assert lab.sqnr_db(data) > 28


LOOP = (
    HEAD
    + """(float[M,16] x, int64 n) => (float[M2,16] last) {
    go = Constant <value = bool {1}> ()
    last = Loop (n, go, x) <body = l (int64 i, bool on, float[K,16] v) => (bool more, float[K2,16] w) {
        more = Identity(on)  m = MatMul(v, w1)  r = Relu(m)  h = MatMul(r, w2)  w = Concat <axis=0> (h, x) }> }"""
)


@pytest.mark.parametrize("correct_bias", [False, True])
def test_a_loop_whose_state_grows_is_calibrated_on_all_iterations(lab, rng, correct_bias):
    data = [
        {"x": rng.standard_normal((m, 16)).astype(np.float32), "n": np.array(n)} for m, n in ((2, 3), (1, 1), (3, 2))
    ]
    first = weight(rng, 16, 16) * 2  # later iterations see larger values
    model = lab.build(LOOP, w1=first, w2=weight(rng, 16, 16))
    assert lab.run(StaticQuantize(correct_bias=correct_bias), model, data).changes == 2
    assert not optimized(lab).keys() & {"MatMul", "Gemm", "FusedMatMul"}
    assert lab.sqnr_db(data) > 24


def test_scan_and_a_branch_inside_it(lab, rng):
    text = (
        HEAD
        + """(float[16] h, float[T,16] x) => (float[16] hn, float[T,16] ys) {
        zero = Constant <value = float {0}> ()
        hn, ys = Scan <num_scan_inputs = 1, body = s (float[16] state, float[16] e) => (float[16] t, float[16] y) {
            axis = Constant <value = int64[1] {0}> ()  row = Unsqueeze(e, axis)  m = MatMul(row, w)
            sum = ReduceSum <keepdims=0> (m)  up = Greater(sum, zero)
            u = If (up) <then_branch = a () => (float[1,16] ao) { ao = Gemm(m, w, b) },
                         else_branch = c () => (float[1,16] co) { co = Identity(m) }>
            y = Squeeze(u, axis)  t = Add(state, y) }> (h, x) }"""
    )
    data = [{"h": np.zeros(16, np.float32), "x": rng.standard_normal((t, 16)).astype(np.float32)} for t in (5, 7, 1, 6)]
    model = lab.build(text, w=weight(rng, 16, 16), b=weight(rng, 16, 1).ravel())
    assert lab.run(StaticQuantize(), model, data).changes == 2
    assert "Scan" in optimized(lab), "the model keeps its Scan: only the copy for calibration has a Loop"
    assert not optimized(lab).keys() & {"MatMul", "Gemm"}
    assert lab.sqnr_db(data) > 25


def test_a_function_called_twice_gets_the_ranges_of_each_call(lab, rng):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[4,16] x) => (float[4,16] z) {
        y = local.linear(x)  z = local.linear(y) }
        <domain: "local", opset_import: ["" : 17]> linear (a) => (b) { w = Constant()  b = MatMul(a, w) }"""
    proto = onnx.parser.parse_model(text)
    values = numpy_helper.from_array(weight(rng, 16, 16) * 8, "w")
    proto.functions[0].node[0].attribute.append(onnx.helper.make_attribute("value", values))
    onnx.save(proto, lab.source)
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)} for _ in range(4)]
    result = lab.run(StaticQuantize(), load(lab.source), data)
    assert result.changes == 2
    assert not optimized(lab).keys() & {"MatMul", "linear"}
    assert lab.sqnr_db(data) > 28
    stored = [i for i in onnx.load(lab.result).graph.initializer if list(i.dims) == [16, 16]]
    assert len(stored) == 1, "both calls read one copy of the codes"
    assert len(StaticQuantize().planned(load(lab.source))) == 2


def test_a_function_that_cannot_be_inlined_says_why(lab, rng):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[4,16] x) => (float[4,16] z) {
        y = local.linear(x)  z = MatMul(y, v) }
        <domain: "local", opset_import: ["" : 16]> linear (a) => (b) { w = Constant()  b = MatMul(a, w) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(weight(rng, 16, 16), "v"))
    values = numpy_helper.from_array(weight(rng, 16, 16), "w")
    proto.functions[0].node[0].attribute.append(onnx.helper.make_attribute("value", values))
    onnx.save(proto, lab.source)
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)} for _ in range(4)]
    result = lab.run(StaticQuantize(), load(lab.source), data)
    assert result.changes == 1
    assert {n.reason.split(":")[0] for n in result.notes} == {"it cannot be inlined", "it is in a local function"}


def test_a_keep_float_label_reaches_into_a_body(lab, rng):
    data = [{**feed, "c": np.array(i % 2 == 0)} for i, feed in enumerate(images(rng))]
    model = lab.build(BRANCHES, w=weight(rng, 8, 8, 3, 3), b=weight(rng, 8, 1).ravel())
    labels = StaticQuantize().planned(model)
    assert len(set(labels)) == 3
    assert lab.run(StaticQuantize(keep_float=labels[1:2]), model, data).changes == 2


def test_when_values_in_bodies_cannot_be_had_the_main_graph_is_quantized_all_the_same(lab, rng, monkeypatch):
    text = (
        HEAD
        + """(float[N,8,8,8] x, bool c) => (float[N,8,8,8] z) {
        y = Conv <pads=[1,1,1,1]> (x, w)
        z = If (c) <then_branch = t () => (float[N,8,8,8] a) { a = Conv <pads=[1,1,1,1]> (y, w) },
                    else_branch = e () => (float[N,8,8,8] b) { b = Neg(y) }> }"""
    )
    data = [{**feed, "c": np.array(i % 2 == 0)} for i, feed in enumerate(images(rng))]

    def broken(model, names):
        found = expose(model, names)
        if "a" in names:
            model.graph.outputs[-1].name = model.graph.inputs[0].name  # what ONNX Runtime does not load
        return found

    monkeypatch.setattr("onnxopt.run.tap.expose", broken)
    result = lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 8, 8, 3, 3)), data)
    assert result.changes == 1
    assert [n.node for n in result.notes] == ["Conv->a"]
    assert "cannot be had" in result.notes[0].reason
    assert lab.sqnr_db(data) > 28
