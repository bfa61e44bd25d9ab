"""Conversion to 16-bit floats; ONNX Runtime's CPU provider puts casts around what it has no kernel for."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from onnxopt.core.io import load
from onnxopt.core.query import nodes
from onnxopt.quantization.half.convert import HalfConvert
from onnxopt.quantization.half.support import Slots, Support, find_support
from onnxopt.run.target import Target

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def feeds(rng, *shape, count=3):
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def types(path):
    """Element type of every initializer, input, output."""
    graph = onnx.load(path).graph
    entries = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    return entries | {i.name: i.data_type for i in graph.initializer}


def ops(path):
    return Counter(n.op_type for n in nodes(load(path)))


def reasons(result):
    return {note.node: note.reason for note in result.notes}


def test_a_chain_is_cast_once_at_each_end_and_keeps_its_interface(lab, rng):
    text = (
        HEAD
        + """(float[N,3,8,8] x) => (float[N,4] y, float[N,8] f) {
        c = Conv <pads=[1,1,1,1]> (x, w, b)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)
        y = Gemm <transB=1> (f, v) }"""
    )
    data = feeds(rng, 2, 3, 8, 8)
    arrays = {"w": weight(rng, 8, 3, 3, 3), "b": weight(rng, 8, 1).ravel(), "v": weight(rng, 4, 8)}
    result = lab.run(HalfConvert(), lab.build(text, **arrays), data)
    assert result.changes == 5 and not result.notes
    found = types(lab.result)
    assert [found[n] for n in ("x", "y", "f")] == [TensorProto.FLOAT] * 3
    assert set(found.values()) - {TensorProto.FLOAT} == {TensorProto.FLOAT16}
    assert ops(lab.result)["Cast"] == 3
    assert 40 < lab.sqnr_db(data) < 90


def test_values_beyond_the_range_stay_float32(lab, rng):
    text = (
        HEAD
        + """(float[N,16] x) => (float[N,16] y) {
        h = MatMul(x, w)  big = Mul(h, c)  s = Softmax(big)  z = MatMul(s, w)  y = Add(z, tiny) }"""
    )
    arrays = {"w": weight(rng, 16, 16), "c": np.array(5e4, np.float32), "tiny": np.array(1e-12, np.float32)}
    data = feeds(rng, 4, 16)
    result = lab.run(HalfConvert(), lab.build(text, **arrays), data)
    why = reasons(result)
    assert "big reaches" in why["Mul->big"] and "big reaches" in why["Softmax->s"]
    assert "would become 0" in why["Add->y"]
    assert result.changes == 2
    assert lab.sqnr_db(data) > 25, "the softmax is as steep as float16 lets it be"
    without = HalfConvert().run(lab.build(text, **(arrays | {"c": np.array(1e5, np.float32)})), lab.context(data[:0]))
    assert "its constant c holds 1e+05" in reasons(without)["Mul->big"]


def test_what_becomes_an_integer_and_the_scales_of_resize_stay_float32(lab, rng):
    text = (
        HEAD
        + """(float[1,4,6,6] x) => (float[1,4,M,K] y) {
        c = Conv <pads=[1,1,1,1]> (x, w)
        i = Shape(c)  f = Cast <to=1> (i)  g = Mul(f, factor)  h = Floor(g)  size = Cast <to=7> (h)
        r = Resize <mode="nearest"> (c, , , size)  u = Resize <mode="nearest"> (r, roi, scales)
        y = Conv <pads=[1,1,1,1]> (u, w) }"""
    )
    arrays = {"w": weight(rng, 4, 4, 3, 3), "factor": np.array([1, 1, 2.5, 2.5], np.float32)}
    arrays |= {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    data = feeds(rng, 1, 4, 6, 6)
    result = lab.run(HalfConvert(), lab.build(text, **arrays), data)
    assert {n for n, why in reasons(result).items() if "becomes an integer" in why} >= {"Cast->f", "Mul->g", "Floor->h"}
    assert result.changes == 5, "both Conv, both Resize, and Shape, which does not care"
    assert types(lab.result)["scales"] == TensorProto.FLOAT
    assert lab.sqnr_db(data) > 40


def test_casts_to_float_are_patched_and_none_is_left_over(lab, rng):
    text = (
        HEAD
        + """(int64[N,8] x) => (float[N,4] y) {
        f = Cast <to=1> (x)  h = MatMul(f, w)  d = Cast <to=11> (h)  e = Cast <to=1> (d)  y = MatMul(e, v) }"""
    )
    data = [{"x": rng.integers(0, 5, (3, 8))}]
    lab.run(HalfConvert(), lab.build(text, w=weight(rng, 8, 8), v=weight(rng, 8, 4)), data)
    casts = [n for n in nodes(load(lab.result)) if n.op_type == "Cast"]
    targets = Counter(ir.DataType(n.attributes["to"].as_int()).name for n in casts)
    assert targets == {"FLOAT16": 2, "DOUBLE": 1, "FLOAT": 1}
    assert lab.sqnr_db(data) > 45


def test_nested_graphs_read_casts_that_exist_where_they_are(lab, rng):
    text = (
        HEAD
        + """(float[4,16] x, bool c) => (float[4,16] z) {
        h = MatMul(x, w)
        z0 = If (c) <then_branch = t () => (float[4,16] a) { q = MatMul(h, w)  a = Relu(q) },
                     else_branch = e () => (float[4,16] b) { m = Hardmax(h)  b = MatMul(m, w) }>
        z = Add(z0, h) }"""
    )
    data = [{**f, "c": np.array(c)} for c, f in zip((True, False), feeds(rng, 4, 16), strict=False)]
    result = lab.run(HalfConvert(exclude=("Hardmax",)), lab.build(text, w=weight(rng, 16, 16)), data)
    assert result.changes == 5
    assert reasons(result)["If->z0"] == "values that enter or leave nested graphs keep their type"
    assert lab.sqnr_db(data) > 45


def test_loops_keep_the_types_of_what_they_carry(lab, rng):
    text = (
        HEAD
        + """(float[4,16] x, int64 n) => (float[4,16] z) {
        t = Constant <value = bool {1}> ()
        z = Loop (n, t, x) <body = l (int64 i, bool ci, float[4,16] a) => (bool co, float[4,16] b) {
            co = Identity(ci)  m = MatMul(a, w)  b = Tanh(m) }> }"""
    )
    data = [{**f, "n": np.array(3)} for f in feeds(rng, 4, 16)]
    assert lab.run(HalfConvert(), lab.build(text, w=weight(rng, 16, 16)), data).changes == 2
    assert lab.sqnr_db(data) > 40


def test_local_functions_stay_float32(lab, rng):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[4,16] x) => (float[4,16] z) {
        y = MatMul(x, w)  s = local.twice(y)  z = MatMul(s, w) }
        <domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""
    data = feeds(rng, 4, 16)
    result = lab.run(HalfConvert(), lab.build(text, w=weight(rng, 16, 16)), data)
    assert result.changes in (1, 2)
    assert lab.sqnr_db(data) > 45


def test_a_shared_weight_serves_both_types(lab, rng):
    text = HEAD + "(float[4,16] x) => (float[4,16] y, float[4,16] z) { y = MatMul(x, w)  z = MatMul(x, w) }"
    data = feeds(rng, 4, 16)
    proto_model = lab.build(text, w=weight(rng, 16, 16))
    next(iter(proto_model.graph)).name = "first"
    assert lab.run(HalfConvert(exclude=("first",)), proto_model, data).changes == 1
    assert Counter(types(lab.result).values())[TensorProto.FLOAT16] == 1
    assert lab.sqnr_db(data) > 45


def test_nothing_is_converted_where_no_layer_gains(lab, rng):
    text = HEAD + "(float[4,16] x) => (float[4,16] y) { a = Relu(x)  y = Add(a, b) }"
    model = lab.build(text, b=weight(rng, 16, 1).ravel())
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = lab.run(HalfConvert(), model, feeds(rng, 4, 16))
    assert result.changes == 0
    assert "no layer beside it" in result.notes[0].reason
    assert ir.to_proto(result.model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [7, 10, 13, 16, 20, 22])
def test_operator_sets(lab, rng, opset):
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,16] x) => (float[N,4] y) {{'
    data = feeds(rng, 4, 16)
    model = lab.build(
        f"{text} h = MatMul(x, w)  s = Softmax(h)  y = Gemm(s, v, b) }}",
        w=weight(rng, 16, 8),
        v=weight(rng, 8, 4),
        b=weight(rng, 4, 1).ravel(),
    )
    assert lab.run(HalfConvert(), model, data).changes == 3
    assert lab.sqnr_db(data) > 45


def test_bfloat16_is_only_for_kernels_that_there_are(lab, rng):
    text = HEAD + "(float[N,16] x) => (float[N,4] y) { h = MatMul(x, w)  y = Relu(h) }"
    result = lab.run(HalfConvert("bfloat16"), lab.build(text, w=weight(rng, 16, 4)), feeds(rng, 4, 16))
    assert result.changes == 0
    assert reasons(result)["MatMul->h"] == "CPUExecutionProvider has no bfloat16 kernel for MatMul"


def test_with_kernels_bfloat16_has_float32_s_range(lab, rng, monkeypatch):
    every = Support("bfloat16", "Some", {op: ((1, 99, {}),) for op in ("MatMul", "Mul", "Relu")}, frozenset())
    monkeypatch.setattr("onnxopt.quantization.half.convert.find_support", lambda kind, target: every)
    text = HEAD + "(float[N,16] x) => (float[N,4] y) { h = MatMul(x, w)  m = Mul(h, c)  y = Relu(m) }"
    model = lab.build(text, w=weight(rng, 16, 4), c=np.array(1e30, np.float32))
    assert lab.run(HalfConvert("bfloat16"), model, feeds(rng, 4, 16)).changes == 3
    kinds = {i.name: i.data_type for i in onnx.load(lab.result).graph.initializer}
    assert set(kinds.values()) == {TensorProto.BFLOAT16}
    original = {i.name: numpy_helper.to_array(i) for i in onnx.load(lab.source).graph.initializer}
    made = {i.name.removesuffix("_bfloat16"): numpy_helper.to_array(i) for i in onnx.load(lab.result).graph.initializer}
    for name, array in original.items():
        np.testing.assert_allclose(made[name].astype(np.float32), array, rtol=2**-8)


def test_kernels_of_a_provider_are_those_of_the_version_and_of_all_types(rng):
    kernels = {"MatMul": ((1, 8, {"T": ["tensor(float)"]}), (9, 99, {"T": ["tensor(float)", "tensor(float16)"]}))}
    support = Support("float16", "Some", kernels, frozenset())
    node = ir.node("MatMul", [ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT)) for n in "ab"])
    node.outputs[0].name, node.outputs[0].type = "c", ir.TensorType(ir.DataType.FLOAT)
    assert support.slots(node, 13) == Slots(frozenset({0, 1}), frozenset({0}))
    assert support.slots(node, 8) == "Some has no float16 kernel for MatMul"
    assert "knows no bfloat16" in str(Support("bfloat16", "Some", None, frozenset()).slots(node, 9))


def test_the_kernels_of_the_cpu_are_listed():
    support = find_support("bfloat16", Target(threads=1))
    assert support.kernels is not None and "Gather" in support.kernels
    assert find_support("float16", Target(threads=1)).kernels is None


def test_models_with_sequences_and_without_the_default_domain_are_left_alone(lab, rng):
    text = (
        HEAD
        + """(float[4,16] x) => (float[8,16] z) {
        y = MatMul(x, w)  s = SequenceConstruct(x, y)  z = ConcatFromSequence <axis=0> (s) }"""
    )
    result = lab.run(HalfConvert(), lab.build(text, w=weight(rng, 16, 16)), feeds(rng, 4, 16))
    assert result.changes == 0
    assert "sequences" in result.notes[0].reason
    text = '<ir_version: 8, opset_import: ["ai.onnx.ml" : 3]> g (float[2,3] x) => (float[2,3] y) {'
    model = lab.build(text + " y = ai.onnx.ml.Binarizer <threshold=0.5> (x) }")
    result = lab.run(HalfConvert(), model, [{"x": np.ones((2, 3), np.float32)}])
    assert result.changes == 0
    assert "domain ai.onnx.ml" in result.notes[0].reason


@pytest.mark.parametrize(
    "expression", ["HannWindow <output_datatype=1> (size)", "MeanVarianceNormalization <axes=[0]> (h)"]
)
def test_types_that_an_attribute_or_a_definition_fixes_stay(lab, rng, expression):
    text = HEAD + f"(float[4,16] x) => (float[4,16] y) {{ h = MatMul(x, w)  k = {expression}  y = Mul(h, k) }}"
    model = lab.build(text, w=weight(rng, 16, 16), **({"size": np.array(16)} if "size" in expression else {}))
    data = feeds(rng, 4, 16)
    assert lab.run(HalfConvert(), model, data).changes == 2
    assert lab.sqnr_db(data) > 45


def test_a_scatter_that_reduces_stays(lab, rng):
    text = (
        HEAD
        + """(float[4,16] x) => (float[4,16] y) {
        h = MatMul(x, w)  s = ScatterElements <axis=0, reduction="add"> (h, i, h)  y = MatMul(s, w) }"""
    )
    model = lab.build(text, w=weight(rng, 16, 16), i=np.zeros((4, 16), np.int64))
    data = feeds(rng, 4, 16)
    assert lab.run(HalfConvert(), model, data).changes == 2
    assert lab.sqnr_db(data) > 45
