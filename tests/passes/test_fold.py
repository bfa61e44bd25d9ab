from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.passes.cleanup.fold import FoldConstants
from onnxopt.passes.constants import array_of
from tests.passes.conftest import model_of, ops

FIXED = "float[1,2] x"
X = {"x": np.array([[1.0, -2.0]], np.float32)}


def one(body: str, *, weights: str = "", outputs: str = "float y", inputs: str = "float[1,2] x", opset: int = 17):
    model = model_of(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}')
    for output in model.graph.outputs:
        output.shape = None
    return model


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("a = Add(v, w) y = Mul(x, a)", "<float[2] v = {1, 2}, float[2] w = {3, 4}>"),
        ("a = Constant <value_floats = [1.0, 2.0]> () b = Exp(a) y = Mul(x, b)", ""),
        ("s = Shape(x) y = Reshape(x, s)", ""),
        ("s = Shape <start = -1> (x) y = Reshape(x, s)", ""),
        ("r = Relu(x) n = Size(r) f = Cast <to = 1> (n) y = Mul(x, f)", ""),
        ("a, b = Split(v) c = Add(a, b) y = Add(x, c)", "<float[4] v = {1, 2, 3, 4}>"),
        ("a = ConstantOfShape <value = float[1] {3}> (s) y = Add(x, a)", "<int64[1] s = {2}>"),
    ],
)
def test_folded(check, body, weights):
    if "Split" in body:
        body = body.replace("Split(v)", "Split <axis = 0> (v)")
    result = check(one(body, weights=weights), FoldConstants(), X)
    kept = [op for op in ops(result.model.graph) if op not in ("Mul", "Add", "Reshape", "Relu")]
    assert kept in ([], ["Constant"])
    assert result.changes >= 1


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        ("s = Shape(x) y = Reshape(x, s)", "float[n,2] x", None),
        ("a = RandomNormalLike <seed = 1.0> (w) y = Add(x, a)", FIXED, "draws random numbers"),
        (
            "s = Constant <value_ints = [300, 300]> () a = ConstantOfShape(s) b = ReduceSum(a) y = Add(x, b)",
            "float[1,2] x",
            "grow",
        ),
        ("a = QuantizeLinear(w, k) b = DequantizeLinear(a, k) y = Add(x, b)", FIXED, None),
        (
            "q = SequenceConstruct(w, w) a = SequenceAt(q, j) y = Add(x, a)",
            "float[1,2] x",
            "sequence",
        ),
    ],
)
def test_kept(check, body, inputs, reason):
    model = one(body, inputs=inputs, weights="<float[2] w = {1, 2}, float k = {0.1}, int64 j = {1}>")
    result = check(model, FoldConstants(), X)
    assert result.changes == 0
    if reason is not None:
        assert reason in result.notes[0].reason


def test_a_huge_value_is_not_computed(check):
    model = one(
        "s = Constant <value_ints = [100000, 100000, 100]> () a = ConstantOfShape(s) b = Shape <start = 0, end = 1> (a)"
        " c = Cast <to = 1> (b) y = Add(x, c)"
    )
    result = FoldConstants().run(model, None)
    assert "4000000000000 bytes" in result.notes[0].reason


def test_a_large_transposed_weight_is_folded_when_nobody_else_reads_it(check):
    model = one("a = Transpose(w) y = MatMul(x, a)", inputs="float[1,300] x")
    weight = np.arange(300 * 300, dtype=np.float32).reshape(300, 300) / 9e4
    value = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    model.graph.register_initializer(value)
    model.graph.node(0).replace_input_with(0, value)
    result = check(model, FoldConstants(), {"x": np.ones((1, 300), np.float32)})
    assert ops(result.model.graph) == ["MatMul"]
    assert len(result.model.graph.initializers) == 1


def test_overridable_default_is_not_constant(check):
    model = one("a = Neg(w) y = Add(x, a)", inputs="float[1,2] x, float[2] w")
    default = model.graph.inputs[1]
    default.const_value = ir.tensor(np.ones(2, np.float32), name="w")
    model.graph.register_initializer(default)
    assert check(model, FoldConstants(), X, {**X, "w": np.array([5.0, 6.0], np.float32)}).changes == 0


def test_constant_graph_output_keeps_its_name(check):
    result = check(one("y = Neg(w)", weights="<float[2] w = {1, 2}>"), FoldConstants(), X)
    assert ops(result.model.graph) == ["Constant"]
    assert result.changes == 1


def test_inside_branches_bodies_and_functions(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x, bool c) => (float[2] y) <int64 n = {2}, bool t = {1}, float[2] w = {1, 2}> {
            a = If (c) <then_branch = t1 () => (float[2] p) { u = Exp(w) p = Add(u, x) },
                        else_branch = e1 () => (float[2] q) { u = Exp(w) q = Mul(u, x) }>
            b = Loop (n, t, a) <body = l (int64 i, bool k, float[2] s) => (bool o, float[2] r) {
                o = Identity(k) v = Neg(w) r = Add(v, s) }>
            y = d.f(b) }
        <domain: "d", opset_import: ["": 17]> f (m) => (z) {
            k = Constant <value = float[2] {1, 2}> () j = Exp(k) h = Neg(j) z = Add(m, h) }""")
    feed = {"x": np.array([1.0, 2.0], np.float32)}
    result = check(model, FoldConstants(), {**feed, "c": np.array(True)}, {**feed, "c": np.array(False)})
    assert result.changes == 5
    function = next(iter(result.model.functions.values()))
    assert [node.op_type for node in function] == ["Constant", "Add"]


def test_attribute_that_the_caller_decides(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x) => (float[2] y) { y = d.f <p = 0.5> (x) }
        <domain: "d", opset_import: ["": 17]> f <p> (m) => (z) {
            k = Constant <value = float[2] {-1, 2}> () h = LeakyRelu <alpha: float = @p> (k) z = Add(m, h) }""")
    result = check(model, FoldConstants(), {"x": np.zeros(2, np.float32)})
    assert result.changes == 0
    assert "caller of the function" in result.notes[0].reason


def test_strings(check):
    model = one("a = Gather(w, i) b = Shape(a) c = Cast <to = 1> (b) y = Add(x, c)", weights="<int64[1] i = {1}>")
    value = ir.Value(name="w", const_value=ir.StringTensor([b"a", b"b"], shape=ir.Shape([2]), name="w"))
    value.type, value.shape = ir.TensorType(ir.DataType.STRING), ir.Shape([2])
    model.graph.register_initializer(value)
    model.graph.node(0).replace_input_with(0, value)
    result = check(model, FoldConstants(), X)
    assert ops(result.model.graph) == ["Add"]
    assert result.changes == 3


def test_a_string_result(check):
    model = one("y = Reshape(w, s)", weights="<int64[2] s = {2, 1}>", outputs="string y")
    value = ir.Value(name="w", const_value=ir.StringTensor([b"a", "ü".encode()], shape=ir.Shape([2]), name="w"))
    value.type, value.shape = ir.TensorType(ir.DataType.STRING), ir.Shape([2])
    model.graph.register_initializer(value)
    model.graph.node(0).replace_input_with(0, value)
    assert check(model, FoldConstants(), X).changes == 1


def test_the_condition_of_an_if_is_left(check):
    model = one(
        "c = Not(f) y = If (c) <then_branch = t () => (float p) { p = Neg(x) },"
        " else_branch = e () => (float q) { q = Abs(x) }>",
        weights="<bool f = {0}>",
    )
    result = check(model, FoldConstants(), X)
    assert result.changes == 0
    assert "decides an If" in result.notes[0].reason


def test_values_of_folded_constants():
    model = one("a = Neg(w) y = Add(x, a)", weights="<float[2] w = {1, 2}>")
    FoldConstants().run(model, None)
    np.testing.assert_array_equal(array_of(model.graph.node(0).inputs[1]), np.array([-1, -2], np.float32))
