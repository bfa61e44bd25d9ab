from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.passes.constants import array_of
from onnxopt.passes.fusion.batch_norm import FoldBatchNorm
from tests.passes.conftest import model_of, ops

STATISTICS = {"s": [1.5, -0.5, 2.0, 0.25], "b": [0.1, 0.2, -0.3, 0.4], "m": [0.5, -1, 0, 2], "v": [1.0, 0.5, 2.0, 0.1]}


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(body: str, dtype: type = np.float32, *, opset=17, shape="1,3,5,5", outputs="", **weights):
    """A model of these nodes, its weights stored in the given type, the statistics s, b, m and v among them."""
    kind = {np.float32: "float", np.float64: "double", np.float16: "float16"}[dtype]
    given = {name: np.array(values, dtype) for name, values in STATISTICS.items()} | weights
    declared = ", ".join(f"{kind}[{','.join(map(str, array.shape))}] {name}" for name, array in given.items())
    head = f'<ir_version: 8, opset_import: ["": {opset}]> g ({kind}[{shape}] x, {declared})'
    model = model_of(f"{head} => ({kind} y{outputs}) {{ {body} }}")
    for output in model.graph.outputs:
        output.shape = None
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(given[value.name].astype(dtype), name=value.name)
        model.graph.register_initializer(value)
    return model


BN = "y = BatchNormalization(a, s, b, m, v)"


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 22])
@pytest.mark.parametrize("bias", ["", ", c"])
def test_conv(check, opset, bias):
    model = build(f"a = Conv(x, w{bias}) {BN}", opset=opset, w=rand(4, 3, 3, 3), c=rand(4, seed=1))
    result = check(model, FoldBatchNorm(), {"x": rand(1, 3, 5, 5)})
    assert ops(result.model.graph) == ["Conv"]
    assert result.changes == 1
    assert len(result.model.graph.initializers) == (2 if bias else 3)  # an unused c is not this pass's business


@pytest.mark.parametrize(
    ("operator", "weight", "shape"),
    [
        ("Conv <group = 4>", (4, 1, 3, 3), (1, 4, 5, 5)),
        ("ConvTranspose", (3, 4, 3, 3), (1, 3, 5, 5)),
        ("ConvTranspose <group = 2>", (6, 2, 3, 3), (1, 6, 5, 5)),
        ("Conv", (4, 3, 3), (1, 3, 5)),
        ("Gemm", (3, 4), (2, 3)),
        ("Gemm <transB = 1, alpha = 0.5>", (4, 3), (2, 3)),
        ("MatMul", (3, 4), (2, 3)),
    ],
)
def test_other_operators(check, operator, weight, shape):
    model = build(f"a = {operator}(x, w) {BN}", shape=",".join(map(str, shape)), w=rand(*weight))
    result = check(model, FoldBatchNorm(), {"x": rand(*shape)})
    assert ops(result.model.graph) == [{"MatMul": "Gemm"}.get(operator, operator.split()[0])]


def test_gemm_with_beta_and_scalar_bias(check):
    model = build(f"a = Gemm <beta = 2.0> (x, w, c) {BN}", shape="2,3", w=rand(3, 4), c=np.array([0.5], np.float32))
    result = check(model, FoldBatchNorm(), {"x": rand(2, 3)})
    assert ops(result.model.graph) == ["Gemm"]


def test_double_is_kept():
    model = build(f"a = Conv(x, w) {BN}", np.float64, w=rand(4, 3, 3, 3))
    assert FoldBatchNorm().run(model, None).changes == 1
    assert all(v.const_value.dtype == ir.DataType.DOUBLE for v in model.graph.initializers.values())


def test_float16_is_computed_in_double():
    model = build(f"a = Conv(x, w) {BN}", np.float16, w=rand(4, 3, 3, 3))
    assert FoldBatchNorm().run(model, None).changes == 1
    factor = np.array(STATISTICS["s"], np.float16).astype(np.float64) / np.sqrt(
        np.array(STATISTICS["v"], np.float16).astype(np.float64) + np.float32(1e-5)
    )
    expected = rand(4, 3, 3, 3).astype(np.float16).astype(np.float64) * factor.reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(array_of(model.graph.node(0).inputs[1]), expected.astype(np.float16))


CASES = {
    "training mode": ("a = Conv(x, w) y, d, e = BatchNormalization <training_mode = 1> (a, s, b, m, v)", 17, ""),
    "further outputs": ("a = Conv(x, w) y, d, e, f, h = BatchNormalization(a, s, b, m, v)", 9, ""),
    "used elsewhere": ("a = Conv(x, w) z = Relu(a) k = BatchNormalization(a, s, b, m, v) y = Add(z, k)", 17, ""),
    "also an output": (f"a = Conv(x, w) {BN}", 17, ", float a"),
    "is computed by Neg": ("n = Neg(m) a = Conv(x, w) y = BatchNormalization(a, s, b, n, v)", 17, ""),
    "shared": (f"k = ReduceMax <keepdims = 0> (w) a = Conv(x, w) h = {BN[4:]} y = Add(h, k)", 17, ""),
}


@pytest.mark.parametrize("reason", CASES)
def test_declined_with_a_reason(reason):
    body, opset, outputs = CASES[reason]
    model = build(body, opset=opset, outputs=outputs, w=rand(4, 3, 3, 3))
    result = FoldBatchNorm().run(model, None)
    assert result.changes == 0
    assert reason in result.notes[0].reason


def test_not_behind_a_linear_operator(check):
    model = build("r = Relu(x) y = BatchNormalization(r, s, b, m, v)", shape="1,4,5,5")
    result = check(model, FoldBatchNorm(), {"x": rand(1, 4, 5, 5)})
    assert "no linear operator in front of it but Relu" in result.notes[0].reason


def test_overflow_of_float16_is_declined():
    model = build(f"a = Conv(x, w) {BN}", np.float16, w=np.full((4, 3, 3, 3), 6e4))
    result = FoldBatchNorm().run(model, None)
    assert "do not fit into float16" in result.notes[0].reason


def test_underflow_of_float16_is_declined():
    model = build(f"a = Conv(x, w) {BN}", np.float16, w=np.full((4, 3, 3, 3), 1e-4))
    model.graph.initializers["s"].const_value = ir.tensor(np.full(4, 1e-3, np.float16), name="s")
    result = FoldBatchNorm().run(model, None)
    assert "too small for float16" in result.notes[0].reason


def test_weight_that_a_caller_may_override():
    model = build(f"a = Conv(x, w) {BN}", w=rand(4, 3, 3, 3))
    model.graph.inputs.append(model.graph.initializers["w"])
    assert "only a default" in FoldBatchNorm().run(model, None).notes[0].reason


def test_inside_a_branch_with_outer_weights(check):
    branch = "{ a = Conv(x, w) p = BatchNormalization(a, s, b, m, v) }"
    other = "{ q = Conv(x, u) }"
    model = build(
        f"k = ReduceSum <keepdims = 0> (x) z = Sub(k, k) c = Equal(k, z) n = Not(c) y = If (n)"
        f" <then_branch = t () => (float p) {branch}, else_branch = e () => (float q) {other}>",
        w=rand(4, 3, 3, 3),
        u=rand(4, 3, 3, 3, seed=5),
    )
    for node in model.graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                attribute.as_graph().outputs[0].shape = None
    result = check(model, FoldBatchNorm(), {"x": rand(1, 3, 5, 5)}, {"x": np.zeros((1, 3, 5, 5), np.float32)})
    assert result.changes == 1
    assert "(Conv)" in ops(result.model.graph)


def test_inside_a_function_with_constant_nodes(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[1,1,2,2] x) => (float[1,1,2,2] y) { y = d.f(x) }
        <domain: "d", opset_import: ["": 17]> f (x) => (y) {
            w = Constant <value = float[1,1,1,1] {3}> () s = Constant <value = float[1] {2}> ()
            b = Constant <value = float[1] {1}> () m = Constant <value = float[1] {0.5}> ()
            v = Constant <value = float[1] {4}> ()
            a = Conv(x, w) y = BatchNormalization(a, s, b, m, v) }""")
    result = check(model, FoldBatchNorm(), {"x": rand(1, 1, 2, 2)})
    assert result.changes == 1
    function = next(iter(result.model.functions.values()))
    assert [n.op_type for n in function if n.op_type != "Constant"] == ["Conv"]
