"""Adaptive rounding against brute force, and on models in ONNX Runtime."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from onnxopt.passes.base import Context
from onnxopt.passes.gram import VECTORS, Gram, Reads, observe
from onnxopt.quantization.fixes import rounding
from onnxopt.quantization.fixes.choose import Fixes, choose_rounding
from onnxopt.quantization.fixes.rounding import descend
from onnxopt.quantization.scheme import CPU_X86
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.target import Target
from tests.quantization.test_fixes import HEAD, dataset

S8 = CPU_X86.weights
CHAIN = (
    HEAD
    + """(float[N,4,9,9] x) => (float[N,8,9,9] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = Relu(a)
    d = Conv <pads=[1,1,1,1], group=8> (r, w2, b2)  s = Relu(d)
    y = Conv (s, w3, b3) }"""
)


def moments(rng, size, groups=1):
    mixed = rng.standard_normal((groups, size, size)) @ rng.standard_normal((groups, size, 4 * size))
    mixed += 2 * rng.standard_normal((groups, 1, 4 * size))
    return (mixed @ mixed.transpose(0, 2, 1)).astype(np.float32)


def error(codes, weight, scale, products):
    off = codes * scale[:, None].astype(np.float64) - weight
    return np.einsum("gio,gij,gjo->go", off, products, off)


@pytest.mark.parametrize("groups", [1, 3])
def test_codes_are_near_the_best_of_all(rng, groups):
    weight = rng.uniform(-1, 1, (groups, 6, 5)).astype(np.float32)
    scale = np.full((groups, 5), 0.2, np.float32)
    products = moments(rng, 6, groups)
    found = descend(weight, scale, products, S8)
    exact = weight / scale[:, None]
    nearest = np.rint(exact)
    assert found.dtype == np.int8
    assert (np.abs(found - exact) < 1).all()
    best = np.full((groups, 5), np.inf)
    for up in product((0, 1), repeat=6):
        tried = np.floor(exact) + np.array(up)[None, :, None]
        best = np.minimum(best, error(tried, weight, scale, products))
    before, after = error(nearest, weight, scale, products), error(found, weight, scale, products)
    assert (after <= before * 1.0001).all()
    assert (after - best).sum() < 0.3 * (before - best).sum()


def test_independent_inputs_keep_the_nearest_codes_and_dead_ones_too(rng):
    weight = rng.uniform(-1, 1, (1, 40, 3)).astype(np.float32)
    scale = np.full((1, 3), 0.01, np.float32)
    scale[0, 2] = 1e-30
    weight[..., 2] = 0
    products = np.diag(np.where(np.arange(40) == 7, 0, 1)).astype(np.float32)[None]
    with np.errstate(all="raise"):
        found = descend(weight, scale, products, S8)
    assert (found[..., :2] == np.rint(weight / scale[:, None])[..., :2]).all()
    assert not found[..., 2].any()


def test_codes_stay_on_the_grid(rng):
    weight = np.full((1, 4, 1), 1.0, np.float32)
    found = descend(weight, np.full((1, 1), 1 / 100.5, np.float32), -moments(rng, 4) + 2 * moments(rng, 4), S8)
    assert found.max() <= 127
    clipped = descend(weight, np.full((1, 1), 1 / 200, np.float32), moments(rng, 4), S8)
    assert (clipped == 127).all()


@pytest.mark.parametrize(
    "attributes",
    [
        "pads=[1,2,0,1]",
        "strides=[2,1], pads=[1,1,1,1]",
        "dilations=[2,1]",
        "group=2, pads=[1,1,1,1]",
        "group=4",
        'auto_pad="SAME_UPPER", strides=[2,2]',
        'auto_pad="SAME_LOWER", strides=[3,2]',
        'auto_pad="VALID"',
    ],
)
def test_the_patches_are_those_that_conv_reads(lab, rng, attributes):
    group = int(attributes[6]) if attributes.startswith("group") else 1
    w = rng.standard_normal((8, 4 // group, 3, 2)).astype(np.float32)
    model = lab.build(HEAD + f"(float[N,4,7,6] x) => (float[N,8,H,W] y) {{ y = Conv <{attributes}> (x, w) }}", w=w)
    x = rng.standard_normal((2, 4, 7, 6)).astype(np.float32)
    reads = Reads.of(model.graph[0], "x", w.shape, 0)
    vectors = reads.vectors(x, VECTORS, rng)
    assert vectors.shape[:2] == (group, 4 // group * 6)
    found = w.reshape(group, 8 // group, -1) @ vectors  # (groups, outputs, places of both samples)
    expected = lab.outputs(lab.source, {"x": x})[0].reshape(2, 8, -1).transpose(1, 0, 2).reshape(8, -1)
    np.testing.assert_allclose(found.reshape(8, -1), expected, atol=1e-4)


def test_long_vectors_are_looked_at_in_parts_and_many_are_sampled(rng, monkeypatch):
    monkeypatch.setattr("onnxopt.passes.gram.WIDEST", 10)
    gram, array = Gram(reads := Reads("x", 1, 25)), rng.standard_normal((40, 30, 25)).astype(np.float32)
    vectors = reads.vectors(array, VECTORS, rng)
    assert vectors.shape == (1, 25, 256)
    for half in np.split(vectors, 2, axis=2):
        gram.update(half)
    assert gram.parts == [slice(0, 10), slice(10, 20), slice(20, 25)]
    for part, plain, centered in zip(
        gram.parts, gram.moments(centered=False), gram.moments(centered=True), strict=True
    ):
        rows = vectors[0, part]
        np.testing.assert_allclose(plain[0], rows @ rows.T / 256, atol=1e-5)
        np.testing.assert_allclose(centered[0], np.cov(rows, bias=True), atol=1e-5)


def test_passes_over_the_data_are_cut_by_memory_and_agree(lab, rng, monkeypatch):
    model, data = chain(lab, rng)
    nodes = [n for n in model.graph if n.op_type == "Conv"]
    reads = [Reads.of(n, n.inputs[0].name, tuple(n.inputs[1].shape), 0) for n in nodes]
    whole = dict(observe(model, reads, lab.context(data)))
    monkeypatch.setattr("onnxopt.passes.gram.BUDGET_BYTES", 1)
    parts = dict(observe(model, reads, lab.context(data)))
    assert list(parts) == reads
    for item in reads:
        for a, b in zip(whole[item].moments(centered=False), parts[item].moments(centered=False), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def chain(lab, rng, count=8):
    """Convs of all kinds whose inputs are far from independent, which is what rounding can use."""
    arrays = {
        "w1": rng.standard_normal((8, 4, 3, 3)),
        "b1": rng.standard_normal(8),
        "w2": rng.standard_normal((8, 1, 3, 3)),
        "b2": rng.standard_normal(8),
        "w3": rng.standard_normal((8, 8, 1, 1)) * np.exp(rng.standard_normal((1, 8, 1, 1))),
        "b3": rng.standard_normal(8),
    }
    for name in ("w1", "w2", "w3"):  # one large weight leaves few codes to the others
        arrays[name][:, 0, 0, 0] *= 12
    mix = rng.standard_normal((4, 2))
    smooth = [np.cumsum(rng.standard_normal((1, 2, 9, 9)), axis=3) / 3 for _ in range(count)]
    feeds = [{"x": np.einsum("ck,nkhw->nchw", mix, s).astype(np.float32)} for s in smooth]
    return lab.build(CHAIN, **{name: array.astype(np.float32) for name, array in arrays.items()}), feeds


def codes(path):
    return {
        i.name: numpy_helper.to_array(i).astype(int)
        for i in onnx.load(path).graph.initializer
        if i.data_type == onnx.TensorProto.INT8 and i.name.endswith("quantized")
    }


@pytest.mark.parametrize("bias", [False, True])
def test_rounding_lowers_the_error_by_single_steps(lab, rng, bias):
    model, data = chain(lab, rng)
    item = StaticQuantize(correct_bias=bias)
    lab.run(item, model.clone(), data)
    before, nearest = lab.sqnr_db(data), codes(lab.result)
    result = lab.run(replace(item, rounding="adaround"), model.clone(), data)
    found = codes(lab.result)
    assert lab.sqnr_db(data) > before + 1
    assert max(np.abs(found[name] - nearest[name]).max() for name in nearest) == 1
    changed = sum(np.count_nonzero(found[name] != nearest[name]) for name in nearest)
    total = sum(array.size for array in nearest.values())
    assert [n.reason for n in result.notes if n.node == "adaround"] == [
        f"{changed} of {total} codes are not the nearest ones"
    ]
    assert lab.kernels()["QLinearConv"] == 3


@pytest.mark.parametrize("transposed", [0, 1])
def test_linear_layers_are_rounded_along_their_inputs(lab, rng, transposed):
    text = HEAD + f"(float[N,24] x) => (float[N,5] y) {{ y = Gemm <transB={transposed}> (x, w, b) }}"
    w = rng.standard_normal((24, 5)).astype(np.float32)
    w[0] *= 20
    named = {"w": np.ascontiguousarray(w.T) if transposed else w, "b": np.zeros(5, np.float32)}
    exact = rng.integers(0, 256, (8, 16, 3)).astype(np.float32)  # on the grid of the activations
    exact[0, 0] = 255
    data = [{"x": np.tile(x, 8)} for x in exact]
    item, model = StaticQuantize(calibrator="minmax"), lab.build(text, **named)
    lab.run(item, model.clone(), data)
    before = lab.sqnr_db(data)
    lab.run(replace(item, rounding="adaround"), model.clone(), data)
    assert lab.sqnr_db(data) > before + 6


def test_a_second_form_reads_the_codes_of_the_first_and_gets_the_same(lab, rng, tmp_path, monkeypatch):
    model, data = chain(lab, rng)
    item = StaticQuantize(rounding="adaround")
    lab.run(item, model.clone(), data)
    first = codes(lab.result)
    monkeypatch.setattr(rounding, "descend", None)  # would fail
    alone = next(n.name or n.outputs[0].name for n in model.graph if n.op_type == "Conv")
    lab.run(replace(item, keep_float=(f"Conv->{alone}",)), model.clone(), data)
    second = codes(lab.result)
    assert len(second) == 2
    assert all((first[name] == second[name]).all() for name in second)


def test_shared_weights_and_late_layers_keep_the_nearest_codes_with_a_reason(lab, rng, monkeypatch):
    text = HEAD + "(float[N,6,8] x) => (float[N,6,8] z) { a = MatMul(x, w)  r = Relu(a)  z = MatMul(r, w) }"
    data = [{"x": rng.standard_normal((2, 6, 8)).astype(np.float32)} for _ in range(4)]
    model = lab.build(text, w=rng.standard_normal((8, 8)).astype(np.float32))
    result = lab.run(StaticQuantize(rounding="adaround"), model, data)
    assert sum("other layers read its weights too" in n.reason for n in result.notes) == 2
    model, data = chain(lab, rng)
    lab.run(StaticQuantize(), model.clone(), data)
    nearest = codes(lab.result)
    monkeypatch.setattr(rounding.round_weights, "__kwdefaults__", {"centered": frozenset(), "limit_s": -1.0})
    result = lab.run(StaticQuantize(rounding="adaround"), model.clone(), data)
    assert sum("had passed" in n.reason for n in result.notes) == 3
    assert all((codes(lab.result)[name] == array).all() for name, array in nearest.items())


def test_rounding_is_kept_only_where_held_back_samples_gain(lab, rng, tmp_path):
    model, data = chain(lab, rng, 24)
    ctx = Context(tmp_path, dataset(data), Target(threads=1))
    kept = choose_rounding(Fixes(model), StaticQuantize(), dataset(data), None, "adaround", ctx)
    assert kept.rounding == "adaround"
    assert [(n.node, n.verdict) for n in kept.notes] == [("adaround", "taken")]
    assert "dB with it" in kept.notes[0].reason


def test_rounding_that_gains_nothing_is_declined(lab, rng, tmp_path):
    text = HEAD + "(float[N,8] x) => (float[N,5] y) { y = MatMul(x, w) }"
    model = lab.build(text, w=rng.standard_normal((8, 5)).astype(np.float32))
    one_at_a_time = dataset([{"x": np.eye(8, dtype=np.float32)} for _ in range(8)])
    ctx = Context(tmp_path, one_at_a_time, Target(threads=1))
    kept = choose_rounding(Fixes(model), StaticQuantize(), one_at_a_time, None, "adaround", ctx)
    assert kept.rounding == "nearest"
    assert [(n.node, n.verdict) for n in kept.notes] == [("adaround", "declined")]


def test_the_same_inputs_give_the_same_codes(lab, rng, tmp_path):
    model, data = chain(lab, rng)
    found = []
    for name in ("a", "b"):
        lab.folder = tmp_path / name
        lab.folder.mkdir()
        lab.run(StaticQuantize(rounding="adaround"), model.clone(), data)
        found.append(lab.result.read_bytes())
    assert found[0] == found[1]
    assert ort.InferenceSession(lab.result, providers=["CPUExecutionProvider"])
