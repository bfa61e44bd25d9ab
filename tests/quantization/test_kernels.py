"""The placement rules against the graph that ONNX Runtime really runs: what is claimed to be integer must be."""

import numpy as np
import pytest

from onnxopt.passes.rewrite.upsample import ConvTransposeToConv
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.static import StaticQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '


def feeds(rng, name="x", shape=(1, 8, 16, 16), count=4):
    return [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def weight(rng, *shape):
    fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


CONV = "y0 = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w, b)"


@pytest.mark.parametrize(
    "activation",
    ["y = Relu(y0)", "y = Clip(y0, low, high)", "y = Identity(y0)"],
    ids=["relu", "clip", "none"],
)
def test_conv_with_its_activation_is_one_integer_kernel(lab, rng, activation):
    text = HEAD + "(float[N,8,16,16] x) => (float[N,16,16,16] y) { CONV ACT }"
    text = text.replace("CONV", CONV).replace("ACT", activation)
    weights = {"w": weight(rng, 16, 8, 3, 3), "b": weight(rng, 16, 1).ravel()}
    if "Clip" in activation:
        weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    data = feeds(rng)
    assert lab.run(StaticQuantize(), lab.build(text, **weights), data).changes == 1
    kernels = lab.kernels()
    assert kernels["QLinearConv"] == 1
    assert not kernels.keys() & {"Conv", "FusedConv", "Relu", "Clip"}
    assert lab.sqnr_db(data) > 30


def test_relu6_whose_range_is_full_still_disappears_into_the_grid(lab, rng):
    text = HEAD + "(float[N,8,16,16] x) => (float[N,16,16,16] y) { CONV y = Clip(y0, low, high) }"
    weights = {"w": weight(rng, 16, 8, 3, 3) * 40, "b": np.zeros(16, np.float32)}
    limits = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    lab.run(StaticQuantize(), lab.build(text.replace("CONV", CONV), **weights, **limits), feeds(rng))
    assert not lab.kernels().keys() & {"Conv", "Clip"}


def test_residual_add_max_pool_and_depthwise_stay_on_integers(lab, rng):
    text = (
        HEAD
        + """(float[N,8,16,16] x) => (float[N,10] y) {
        a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)  ar = Relu(a)
        d = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=16> (ar, w2, b1)  dr = Relu(d)
        s = Add(dr, ar)  sr = Relu(s)
        p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (sr)
        c = Conv <kernel_shape=[1,1]> (p, w3)
        m = GlobalAveragePool(c)  f = Flatten(m)
        y = Gemm <transB=1> (f, w4, b4) }"""
    )
    model = lab.build(
        text,
        w1=weight(rng, 16, 8, 3, 3),
        b1=weight(rng, 16, 1).ravel(),
        w2=weight(rng, 16, 1, 3, 3),
        w3=weight(rng, 16, 16, 1, 1),
        w4=weight(rng, 10, 16),
        b4=weight(rng, 10, 1).ravel(),
    )
    data = feeds(rng)
    assert lab.run(StaticQuantize(), model, data).changes == 4
    kernels = lab.kernels()
    assert kernels["QLinearConv"] == 3
    assert kernels["QLinearAdd"] == 1
    assert kernels["QGemm"] == 1
    assert kernels["MaxPool"] + kernels["NhwcMaxPool"] == 1
    assert not kernels.keys() & {"Conv", "FusedConv", "Relu", "Add", "Gemm"}
    assert kernels["DequantizeLinear"] == 1, "only the average pool leaves the integers"
    assert lab.sqnr_db(data) > 25


def test_concat_and_pool_between_convs_stay_on_integers(lab, rng):
    text = (
        HEAD
        + """(float[N,8,16,16] x) => (float[N,8,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1)  ar = Relu(a)
        b = Conv <pads=[1,1,1,1]> (x, w2)  br = Relu(b)
        c = Concat <axis=1> (ar, br)  p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (c)
        y = Conv <pads=[1,1,1,1]> (p, w3) }"""
    )
    arrays = {"w1": weight(rng, 8, 8, 3, 3), "w2": weight(rng, 16, 8, 3, 3) * 3, "w3": weight(rng, 8, 24, 3, 3)}
    data = feeds(rng)
    lab.run(StaticQuantize(), lab.build(text, **arrays), data)
    kernels = lab.kernels()
    assert kernels["QLinearConcat"] == 1
    assert kernels["QuantizeLinear"] == kernels["DequantizeLinear"] == 1
    assert not kernels.keys() & {"Conv", "FusedConv", "Concat"}
    assert lab.sqnr_db(data) > 25


@pytest.mark.parametrize(("rank", "group"), [(1, 1), (1, 8), (3, 1)])
def test_conv_of_other_ranks(lab, rng, rank, group):
    dims = ",".join(["12"] * rank)
    pads = str([1] * 2 * rank).replace(" ", "")
    text = HEAD + f"(float[N,8,{dims}] x) => (float[N,16,{dims}] y) {{ y = Conv <group={group}, pads={pads}> (x, w) }}"
    data = feeds(rng, shape=(1, 8, *[12] * rank))
    lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 16, 8 // group, *[3] * rank)), data)
    kernels = lab.kernels()
    assert kernels["QLinearConv"] == 1
    assert not kernels["Conv"]
    assert lab.sqnr_db(data) > 30


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biased", [False, True])
def test_gemm_chain(lab, rng, transposed, biased):
    b1, b2 = (", b1", ", b2") if biased else ("", "")
    text = (
        HEAD
        + f"""(float[N,32] x) => (float[N,8] y) {{
        h = Gemm <transB={transposed}> (x, w1{b1})  r = Relu(h)
        y = Gemm <transB={transposed}> (r, w2{b2}) }}"""
    )
    w1, w2 = weight(rng, 32, 16), weight(rng, 16, 8)
    arrays = {"w1": w1.T.copy() if transposed else w1, "w2": w2.T.copy() if transposed else w2}
    if biased:
        arrays |= {"b1": weight(rng, 16, 1).ravel(), "b2": weight(rng, 8, 1).reshape(1, 8)}
    data = feeds(rng, shape=(2, 32))
    assert lab.run(StaticQuantize(), lab.build(text, **arrays), data).changes == 2
    kernels = lab.kernels()
    assert not kernels.keys() & {"Gemm", "FusedGemm", "Relu", "MatMul"}
    assert lab.sqnr_db(data) > 30


def test_matmul_of_three_dimensions_leaves_its_output_float(lab, rng):
    text = HEAD + "(float[N,T,32] x) => (float[N,T,16] y) { h = MatMul(x, w)  y = Add(h, b) }"
    data = feeds(rng, shape=(2, 5, 32))
    lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 32, 16), b=weight(rng, 16, 1).ravel()), data)
    kernels = lab.kernels()
    assert kernels["MatMulIntegerToFloat"] == 1
    assert kernels["QuantizeLinear"] == 1
    assert not kernels.keys() & {"MatMul", "Gemm", "FusedMatMul", "DequantizeLinear"}
    assert lab.sqnr_db(data) > 35


def test_conv_transpose_as_conv_and_depth_to_space_stays_on_integers(lab, rng):
    text = (
        HEAD
        + """(float[N,8,8,8] x) => (float[N,4,16,16] y) {
        a = Conv (x, w1)  r = Relu(a)  u = ConvTranspose <strides=[2,2]> (r, w2, b)  s = Relu(u)
        y = Conv (s, w3) }"""
    )
    arrays = {"w1": weight(rng, 8, 8, 1, 1), "w2": weight(rng, 8, 8, 2, 2), "w3": weight(rng, 4, 8, 1, 1)}
    model = lab.build(text, **arrays, b=weight(rng, 8, 1).ravel())
    data = feeds(rng, shape=(1, 8, 8, 8))
    rewritten = ConvTransposeToConv().run(model, lab.context(data)).model
    assert lab.run(StaticQuantize(), rewritten, data).changes == 3
    kernels = lab.kernels()
    assert kernels["QLinearConv"] == 3
    assert kernels["QuantizeLinear"] == kernels["DequantizeLinear"] == kernels["DepthToSpace"] == 1
    assert lab.sqnr_db(data) > 25


@pytest.mark.parametrize("dims", ["N,32", "4,32", "1,4,32", "2,1,4,32"])
@pytest.mark.parametrize("rest", ["y = Neg(a)", "r = Relu(a)  y = Neg(r)", "r = Relu(a)  y = MatMul(r, w)"])
def test_matmul_with_a_bias_that_the_runtime_makes_a_gemm(lab, rng, dims, rest):
    text = HEAD + f"(float[{dims}] x) => (float[{dims}] y) {{ h = MatMul(x, w)  a = Add(h, b)  {rest} }}"
    data = feeds(rng, shape=tuple(4 if d == "N" else int(d) for d in dims.split(",")))
    model = lab.build(text, w=weight(rng, 32, 32), b=weight(rng, 32, 1).ravel() * 8)
    assert lab.run(StaticQuantize(), model, data).changes == 1 + rest.count("MatMul")
    assert not lab.kernels().keys() & {"MatMul", "Gemm", "FusedGemm", "FusedMatMul", "Add"}
    assert lab.sqnr_db(data) > 28


@pytest.mark.parametrize("dims", ["N,T,32", "N,32"])
def test_matmul_with_an_activation_that_a_float_op_reads(lab, rng, dims):
    text = HEAD + f"(float[{dims}] x) => (float[{dims}] y) {{ h = MatMul(x, w)  r = Relu(h)  y = Neg(r) }}"
    data = feeds(rng, shape=(2, 5, 32) if "T" in dims else (2, 32))
    assert lab.run(StaticQuantize(), lab.build(text, w=weight(rng, 32, 32)), data).changes == 1
    assert not lab.kernels().keys() & {"MatMul", "Gemm", "FusedMatMul", "Relu"}
    assert lab.sqnr_db(data) > 30


def test_dynamic_matmul_and_gemm_are_fused_and_share_the_quantized_input(lab, rng):
    text = (
        HEAD
        + """(float[N,32] x) => (float[N,16] y, float[N,8] z) {
        y = MatMul(x, w1)  z = Gemm <transB=1, alpha=0.5> (x, w2, b) }"""
    )
    model = lab.build(text, w1=weight(rng, 32, 16), w2=weight(rng, 32, 8).T.copy(), b=weight(rng, 8, 1).ravel())
    data = feeds(rng, shape=(2, 32))
    assert lab.run(DynamicQuantize(), model, data).changes == 2
    kernels = lab.kernels()
    assert kernels["DynamicQuantizeLinear"] == 1
    assert kernels["MatMulIntegerToFloat"] == 2
    assert not kernels.keys() & {"MatMul", "Gemm", "MatMulInteger"}
    assert lab.sqnr_db(data) > 35


def test_dynamic_with_its_own_input_is_one_kernel(lab, rng):
    text = HEAD + "(float[N,T,32] x) => (float[N,T,16] y) { y = MatMul(x, w) }"
    data = feeds(rng, shape=(2, 5, 32))
    lab.run(DynamicQuantize(), lab.build(text, w=weight(rng, 32, 16)), data)
    assert lab.kernels() == {"DynamicQuantizeMatMul": 1}
