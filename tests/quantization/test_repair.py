"""Quantized models repaired for CPUs without VNNI: what saturates is changed, and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.core.io import save
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.portability.deployment import DEPLOYMENTS, deployment
from onnxopt.quantization.portability.pairs import as_matrix, worst_sum
from onnxopt.quantization.portability.repair import repair
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.target import Target

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
CHAIN = (
    HEAD
    + """(float[N,4,8,8] x) => (float[N,6] y) <float[16,4,3,3] w1, float[16,1,3,3] w2, float[16,6] w3> {
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1)  ar = Relu(a)
    d = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=16> (ar, w2)  dr = Relu(d)
    m = GlobalAveragePool(dr)  f = Flatten(m)
    y = MatMul(f, w3) }"""
)


def codes(path, name):
    return next(numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name == name)


def of_one_sign(rng, *shape):
    """Weights whose neighbours add up: all about as large as the largest."""
    return rng.uniform(0.7, 1, shape).astype(np.float32)


def alternating(rng, *shape):
    """Weights whose neighbours along the contracted axis have different signs: these never saturate."""
    weight = rng.uniform(0.5, 1, shape).astype(np.float32)
    weight[1::2] *= -1
    return weight


@pytest.fixture
def chain(lab, rng):
    """A first Conv that saturates, a depthwise Conv, and a MatMul that cannot."""
    return lab.build(
        CHAIN, w1=of_one_sign(rng, 16, 4, 3, 3), w2=of_one_sign(rng, 16, 1, 3, 3), w3=alternating(rng, 16, 6)
    )


def bright(rng, shape, count=6):
    return [{"x": rng.uniform(0.6, 1, shape).astype(np.float32)} for _ in range(count)]


def repaired(lab, item, model, data):
    ctx = lab.context(data)
    result = lab.run(item, model.clone(), data)
    return repair(item, model, result, lab.result, data, ctx)


def sqnr_db(lab, path, data):
    signal = noise = 0.0
    for feeds in data:
        for a, b in zip(lab.outputs(lab.source, feeds), lab.outputs(path, feeds), strict=True):
            signal, noise = (
                signal + float((a.astype(float) ** 2).sum()),
                noise + float(((a - b.astype(float)) ** 2).sum()),
            )
    return 10 * np.log10(signal / noise)


def test_only_the_layer_that_saturates_is_repaired(lab, rng, chain):
    data = bright(rng, (1, 4, 8, 8))
    lab.run(StaticQuantize(), chain.clone(), data)
    before = {name: codes(lab.result, name) for name in ("w1_quantized", "w2_quantized", "w3_quantized")}
    found = repaired(lab, StaticQuantize(), chain, data)
    assert found.item.narrow == ("w1",)
    assert found.item.unsigned == ()
    assert [r.layer for r in found.repairs if r.form != "kept"] == ["Conv->a"]
    assert not found.after.happening
    worst = worst_sum(as_matrix(codes(lab.result, "w1_quantized").astype(int), 0))
    assert ((worst > 120) & (worst <= 128)).all()
    for name in ("w2_quantized", "w3_quantized"):
        assert codes(lab.result, name).tobytes() == before[name].tobytes()
    assert sqnr_db(lab, found.before.path, data) < 15
    assert sqnr_db(lab, found.after.path, data) > 30
    # Nothing saturates any more, so that this machine computes the same.
    for feeds in data:
        np.testing.assert_array_equal(lab.outputs(found.after.path, feeds)[0], lab.outputs(lab.result, feeds)[0])


def test_a_model_that_does_not_saturate_stays_as_it_is_byte_for_byte(lab, rng):
    text = HEAD + "(float[N,16] x) => (float[N,6] y) <float[16,6] w> {y = MatMul(x, w)}"
    model, data = lab.build(text, w=alternating(rng, 16, 6)), bright(rng, (1, 16))
    lab.run(StaticQuantize(), model.clone(), data)
    before = lab.result.read_bytes()
    found = repaired(lab, StaticQuantize(), model, data)
    assert not found.is_changed
    assert found.item == StaticQuantize()
    assert lab.result.read_bytes() == before


@pytest.mark.parametrize("text", ["y = MatMul(x, w)", "y = Gemm <transB=1> (x, w)"], ids=["matmul", "gemm"])
def test_a_layer_whose_results_cancel_gets_unsigned_weights(lab, rng, text):
    weight = (rng.integers(120, 128, (16, 6)) * np.resize([1, 1, -1, -1], 16)[:, None]).astype(np.float32)
    weight[0] = 127  # so that the codes are the weights
    shape = (6, 16) if "Gemm" in text else (16, 6)
    model = lab.build(
        HEAD + f"(float[N,16] x) => (float[N,6] y) <float[{shape[0]},{shape[1]}] w> {{{text}}}",
        w=weight if "MatMul" in text else np.ascontiguousarray(weight.T),
    )
    data = [{"x": rng.uniform(0.98, 1, (1, 16)).astype(np.float32)} for _ in range(6)]
    found = repaired(lab, StaticQuantize(), model, data)
    assert found.item.unsigned == ("w",)
    assert codes(lab.result, "w_quantized").dtype == np.uint8
    assert found.after.layers == 0
    assert lab.kernels().keys() & {"QGemm", "MatMulIntegerToFloat", "QLinearMatMul"}
    assert sqnr_db(lab, found.after.path, data) > sqnr_db(lab, found.before.path, data) + 10


def test_dynamic_layers_are_repaired_too(lab, rng):
    text = HEAD + "(float[N,16] x) => (float[N,6] y) <float[16,6] w> {y = MatMul(x, w)}"
    model, data = lab.build(text, w=of_one_sign(rng, 16, 6)), bright(rng, (1, 16))
    found = repaired(lab, DynamicQuantize(), model, data)
    assert found.item.narrow == ("w",)
    assert not found.after.happening
    assert sqnr_db(lab, found.after.path, data) > sqnr_db(lab, found.before.path, data) + 20


def test_the_grids_of_a_gpu_are_symmetric_with_float_biases_and_quantized_shortcuts(lab, rng):
    text = (
        HEAD
        + """(float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4] b2, float[4,4,3,3] w3> {
        a0 = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)  a = Relu(a0)
        c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (a, w2, b2)
        s = Add(c, a)  r = Relu(s)
        y = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r, w3) }"""
    )
    weights = {name: rng.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32) for name in ("w1", "w2", "w3")}
    model = lab.build(text, **weights, b1=np.ones(4, np.float32), b2=np.ones(4, np.float32))
    data = [{"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(4)]
    scheme = next(d.scheme for d in DEPLOYMENTS if d.name == "tensorrt")
    lab.run(StaticQuantize(scheme=scheme), model, data)
    graph = onnx.load(lab.result).graph
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            assert node.input[2] in ("b1", "b2")
    zeros = [numpy_helper.to_array(t) for t in graph.initializer if "zero_point" in t.name]
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)
    add = next(node for node in graph.node if node.op_type == "Add")
    assert [made[name].op_type for name in add.input] == ["Conv", "DequantizeLinear"]
    assert lab.sqnr_db(data) > 25


def test_each_target_judges_the_same_numbers_on_this_cpu(lab, rng):
    text = HEAD + "(float[N,4,8,8] x) => (float[N,16,8,8] y) <float[16,4,3,3] w> {y = Conv <pads=[1,1,1,1]> (x, w)}"
    weight = rng.normal(0, 0.2, (16, 4, 3, 3)).astype(np.float32)
    data = [{"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(4)]
    for place in DEPLOYMENTS:
        lab.run(StaticQuantize(scheme=place.scheme), lab.build(text, w=weight), data)
        assert lab.sqnr_db(data) > 30, place.name


@pytest.mark.parametrize(
    ("flags", "machine", "provider", "name"),
    [
        ({"avx2", "avx512_vnni"}, "x86_64", "cpu", "vnni"),
        ({"avx2", "avx_vnni"}, "x86_64", "cpu", "vnni"),
        ({"avx2", "avx512bw"}, "x86_64", "cpu", "avx2"),
        ({"asimd"}, "aarch64", "cpu", "arm"),
        ({"avx2"}, "x86_64", "tensorrt", "tensorrt"),
        ({"avx2"}, "x86_64", "xnnpack", "vnni"),
        (set(), "x86_64", "cpu", "vnni"),
    ],
)
def test_the_host_is_recognized(monkeypatch, flags, machine, provider, name):
    monkeypatch.setattr("onnxopt.quantization.portability.deployment.cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr("platform.machine", lambda: machine)
    target = Target(provider=provider)
    assert deployment("host", target).name == name
    assert deployment("host", target).is_here
    if name == "avx2":
        assert deployment("avx2", target).is_here
        assert not deployment("arm", target).is_here


def test_a_repaired_file_holds_its_repairs_in_the_pass(lab, rng, chain):
    data = bright(rng, (1, 4, 8, 8))
    found = repaired(lab, StaticQuantize(), chain, data)
    first = lab.result.read_bytes()
    save(found.item.run(chain.clone(), lab.context(data)).model, lab.result)
    assert lab.result.read_bytes() == first
