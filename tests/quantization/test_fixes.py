from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.core.query import label
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.errors import DataError
from onnxopt.passes.base import Context
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.fixes.choose import choose_fixes
from onnxopt.quantization.fixes.relu6 import ClipToRelu
from onnxopt.quantization.fixes.smooth import Smooth
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.target import Target
from tests.quantization.test_equalize import CHAIN, HEAD, chain, images, weight

NORM = (
    HEAD
    + """(float[N,6,16] x) => (float[N,6,8] y, float[N,6,8] z) {
    h = LayerNormalization <axis=-1> (x, g, b)  y = MatMul(h, w1)  z = MatMul(h, w2) }"""
)
POST_NORM = (
    HEAD
    + """(float[N,6,16] x) => (float[N,6,16] y) {
    h = LayerNormalization <axis=-1> (x, g, b)  a = MatMul(h, w1)  y = Add(a, h) }"""
)
EXPORTED = (
    HEAD
    + """(float[N,6,16] x) => (float[N,6,8] y) {
    n = Tanh(x)  m = Mul(n, g)  h = Add(m, b)  y = MatMul(h, w1) }"""
)
CLIP = HEAD + "(float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, w1)  c = Clip(a, lo, hi)  y = Conv(c, w2) }"


def dataset(feeds) -> Dataset:
    samples = [Sample(f) for f in feeds]
    return Dataset("test", lambda i: samples[i], tuple(range(len(samples))), "digest", False)


def tokens(rng, count=8):
    return [{"x": rng.standard_normal((2, 6, 16)).astype(np.float32)} for _ in range(count)]


def outliers(rng):
    gain = np.ones(16, np.float32)
    gain[[3, 7]] = 60
    return gain


@pytest.mark.parametrize(("text", "outputs"), [(NORM, 8), (POST_NORM, 16), (EXPORTED, 8)])
def test_smoothing_keeps_the_function_and_helps_int8(lab, rng, text, outputs):
    named = {"g": outliers(rng), "b": weight(rng, 16, 1)[:, 0], "w1": weight(rng, 16, outputs)}
    if text is NORM:
        named["w2"] = weight(rng, 16, outputs)
    data = tokens(rng)
    lab.run(StaticQuantize(), lab.build(text, **named), data)
    before = [lab.outputs(lab.result, f) for f in data]
    result = lab.run(Smooth(), lab.build(text, **named), data)
    assert result.changes == 1
    assert lab.sqnr_db(data) > 100
    lab.run(StaticQuantize(), result.model, data)
    after = [lab.outputs(lab.result, f) for f in data]
    truth = [lab.outputs(lab.source, f) for f in data]

    def worst(found):
        errors = [np.abs(a - b).mean() for x, y in zip(truth, found, strict=True) for a, b in zip(x, y, strict=True)]
        return sum(errors)

    assert worst(after) < 0.8 * worst(before)


def test_smoothing_leaves_even_channels_alone(lab, rng):
    named = {"g": np.ones(16, np.float32), "b": np.zeros(16, np.float32), "w1": weight(rng, 16, 8)}
    result = lab.run(Smooth(), lab.build(NORM, **named, w2=weight(rng, 16, 8)), tokens(rng))
    assert result.changes == 0
    assert "no scale" in result.notes[0].reason


def test_smoothing_declines_a_norm_that_is_an_output(lab, rng):
    text = NORM.replace("float[N,6,8] z", "float[N,6,16] h").replace("z = MatMul(h, w2)", "")
    named = {"g": outliers(rng), "b": np.zeros(16, np.float32), "w1": weight(rng, 16, 8)}
    result = lab.run(Smooth(), lab.build(text, **named), tokens(rng))
    assert result.changes == 0
    assert "output of the model" in result.notes[0].reason


@pytest.mark.parametrize(("limit", "changes"), [(20.0, 1), (0.5, 0)])
def test_a_clip_becomes_relu_only_where_its_limit_is_not_reached(lab, rng, limit, changes):
    named = {"w1": weight(rng, 4, 4, 1, 1), "w2": weight(rng, 4, 4, 1, 1)}
    data = images(rng)
    model = lab.build(CLIP, **named, lo=np.array(0, np.float32), hi=np.array(limit, np.float32))
    result = lab.run(ClipToRelu(), model, data)
    assert result.changes == changes
    assert lab.sqnr_db(data) > 60
    assert changes or "cuts off" in result.notes[0].reason


@pytest.mark.parametrize("bias", [True, False])
def test_bias_correction_takes_the_mean_error_away(lab, rng, bias):
    text = HEAD + "(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w" + ", b" * bias + ") }"
    named = {"w": weight(rng, 4, 4, 3, 3)} | ({"b": weight(rng, 4, 1)[:, 0]} if bias else {})
    named["w"][:, :, 0, 0] *= 20  # leaves few codes to the others
    data = [{"x": np.abs(f["x"]) + 3} for f in images(rng)]

    def mean_error(item):
        lab.run(item, lab.build(text, **named), data)
        pairs = [(lab.outputs(lab.source, f)[0], lab.outputs(lab.result, f)[0]) for f in data]
        return np.abs(np.mean([a - b for a, b in pairs], axis=(0, 1, 3, 4))).max()

    assert mean_error(StaticQuantize(correct_bias=True)) < 0.5 * mean_error(StaticQuantize())
    assert lab.kernels()["QLinearConv"] == 1


def test_bias_correction_reaches_the_add_behind_a_matmul(lab, rng):
    text = HEAD + "(float[N,6,16] x) => (float[N,6,8] y) { a = MatMul(x, w)  y = Add(a, b) }"
    named = {"w": weight(rng, 16, 8), "b": np.zeros(8, np.float32)}
    named["w"][0] *= 30
    data = [{"x": np.abs(f["x"]) + 2} for f in tokens(rng)]
    lab.run(StaticQuantize(), lab.build(text, **named), data)
    before = lab.sqnr_db(data)
    lab.run(StaticQuantize(correct_bias=True), lab.build(text, **named), data)
    assert lab.sqnr_db(data) > before + 1


@pytest.mark.parametrize("kept", [(), ("a",), ("c",)])
def test_codes_and_corrections_do_not_depend_on_what_else_is_float(lab, rng, kept):
    text = HEAD + (
        "(float[N,16] x) => (float[N,16] y) { a = MatMul(x, u) r = Add(a, b) s = Relu(r) "
        "c = MatMul(s, v) d = Add(c, b) t = Relu(d) e = MatMul(t, w) y = Add(e, b) }"
    )
    named = {name: weight(rng, 16, 16) for name in "uvw"} | {"b": weight(rng, 16, 1)[:, 0]}
    for array in (named[name] for name in "uvw"):
        array[0] *= 20
    model = lab.build(text, **named)
    labels = {n.outputs[0].name: label(n) for n in model.graph}
    item = StaticQuantize(correct_bias=True, rounding="adaround", keep_float=tuple(labels[name] for name in kept))
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)} for _ in range(8)]
    assert lab.run(item, model, data).changes == 3 - len(kept)

    def codes(path):
        constants = [i for i in onnx.load(path).graph.initializer if i.name.startswith(("w_", "y_", "e_"))]
        return {i.name: numpy_helper.to_array(i).tobytes() for i in constants if "quantized" in i.name}

    alone = codes(lab.result)
    lab.run(replace(item, keep_float=()), lab.build(text, **named), data)
    assert alone and alone.items() <= codes(lab.result).items()


def test_a_matmul_without_bias_is_left_with_a_reason(lab, rng):
    text = HEAD + "(float[N,6,16] x) => (float[N,6,8] y) { y = MatMul(x, w) }"
    result = lab.run(StaticQuantize(correct_bias=True), lab.build(text, w=weight(rng, 16, 8)), tokens(rng))
    assert any("no bias" in note.reason for note in result.notes)


def test_the_fixes_that_pay_are_kept_and_all_are_reported(lab, rng, tmp_path):
    data = images(rng, 16)
    model = lab.build(CHAIN, **chain(rng))
    ctx = Context(tmp_path, dataset(data), Target(threads=1))
    fixes = choose_fixes(model, StaticQuantize(), dataset(data), None, ctx)
    assert "equalize" in [item.name for item in fixes.passes] or "smooth" in [item.name for item in fixes.passes]
    decided = [n for n in fixes.notes if n.verdict in ("taken", "declined")]
    assert {"correct-bias", "clip-weights", "equalize", "clip-to-relu + equalize", "smooth"} <= {
        n.node for n in decided
    }
    lab.run(StaticQuantize(), model.clone(), data)
    before = lab.sqnr_db(data)
    lab.run(StaticQuantize(correct_bias=fixes.correct_bias), fixes.model.clone(), data)
    assert lab.sqnr_db(data) > before + 6


WIDE = HEAD + "(float[N,1,60000] x) => (float[N,1,4] y) { y = MatMul(x, w) }"


def with_outliers(rng):
    """Weights of which one in each channel costs all others a third of their resolution; inputs that cost nothing."""
    wide = rng.uniform(-1, 1, (60_000, 4)).astype(np.float32)
    wide[0] = 1.3
    return wide, [{"x": rng.integers(0, 2, (8, 1, 60_000)).astype(np.float32)} for _ in range(8)]


@pytest.mark.parametrize("item", [StaticQuantize(), DynamicQuantize()])
def test_clipped_weights_lower_the_error(lab, rng, item):
    wide, data = with_outliers(rng)
    lab.run(item, lab.build(WIDE, w=wide), data)
    before = lab.sqnr_db(data)
    lab.run(replace(item, weight_range="mse"), lab.build(WIDE, w=wide), data)
    assert lab.sqnr_db(data) > before + 0.7


def test_fixes_clip_weights_where_that_pays(lab, rng, tmp_path):
    wide, data = with_outliers(rng)
    ctx = Context(tmp_path, dataset(data), Target(threads=1))
    fixes = choose_fixes(lab.build(WIDE, w=wide), StaticQuantize(), dataset(data), None, ctx)
    assert fixes.weight_range == "mse"


def test_a_model_without_integer_layers_needs_no_fix(lab, rng, tmp_path):
    model = lab.build(HEAD + "(float[N,4,8,8] x) => (float[N,4,8,8] y) { y = Relu(x) }")
    data = dataset(images(rng))
    fixes = choose_fixes(model, StaticQuantize(), data, None, Context(tmp_path, data, Target(threads=1)))
    assert not fixes.passes
    assert [n.verdict for n in fixes.notes] == ["skipped"]


@pytest.mark.parametrize("item", [Smooth(), ClipToRelu()])
def test_fixes_that_observe_need_data(lab, rng, item, tmp_path):
    with pytest.raises(DataError, match="data"):
        item.run(lab.build(CHAIN, **chain(rng)), Context(tmp_path))


def test_nan_activations_are_left_alone(lab, rng):
    data = tokens(rng)
    data[0]["x"][0, 0, 0] = np.nan
    named = {"g": outliers(rng), "b": np.zeros(16, np.float32), "w1": weight(rng, 16, 8)}
    result = lab.run(Smooth(), lab.build(NORM, **named, w2=weight(rng, 16, 8)), data)
    assert result.changes == 0
    assert "NaN" in result.notes[0].reason
