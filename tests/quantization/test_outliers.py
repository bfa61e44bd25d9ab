"""Outlier channels behind an activation that absorbs no scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxopt.errors import DataError
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.fixes.outliers import EvenOut
from onnxopt.quantization.static import StaticQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
PLAIN = HEAD + "(float[N,6,32] x) => (float[N,6,64] y) { h = Sigmoid(x) t = Mul(h, x) y = MatMul(t, w) }"
BIAS = PLAIN.replace("y = MatMul(t, w)", "p = MatMul(t, w) y = Add(p, b)")
GEMM = (
    HEAD
    + "(float[N,32] x) => (float[N,64] y) { h = Sigmoid(x) t = Mul(h, x) y = Gemm <transB=1, alpha=0.5> (t, w, b) }"
)
TWO = PLAIN.replace("=> (float[N,6,64] y)", "=> (float[N,6,64] y, float[N,6,64] z)").replace(
    "y = MatMul(t, w)", "y = MatMul(t, w) z = MatMul(t, u)"
)
INPUT = HEAD + "(float[N,6,32] x) => (float[N,6,64] y) { y = MatMul(x, w) }"


def weights(rng, text):
    shape = (64, 32) if "transB" in text else (32, 64)
    made = {"w": rng.standard_normal(shape).astype(np.float32)}
    if "b)" in text:
        made["b"] = rng.standard_normal(64).astype(np.float32)
    if "u)" in text:
        made["u"] = rng.standard_normal((32, 64)).astype(np.float32)
    return made


def spiky(rng, text, factor=80.0):
    """Inputs of which channels 3 and 17 are much larger than the others."""
    shape = (12, 32) if "transB" in text else (2, 6, 32)
    found = []
    for _ in range(6):
        x = np.abs(rng.standard_normal(shape)).astype(np.float32)
        x[..., [3, 17]] *= factor
        found.append({"x": x})
    return found


@pytest.mark.parametrize("text", [PLAIN, BIAS, GEMM, TWO, INPUT])
@pytest.mark.parametrize("item", [StaticQuantize(calibrator="minmax"), DynamicQuantize()])
def test_outlier_channels_get_a_float_path(lab, rng, text, item):
    named, data = weights(rng, text), spiky(rng, text)
    lab.run(item, lab.build(text, **named), data)
    before_db = lab.sqnr_db(data)
    result = lab.run(EvenOut(), lab.build(text, **named), data)
    assert result.changes == 1
    assert lab.sqnr_db(data) > 100
    whole = lab.sqnr_db(data[:1])
    quantized = lab.run(item, result.model, data)
    assert whole > 100
    assert quantized.changes == (2 if text is TWO else 1)
    assert any("outlier channels" in note.reason for note in quantized.notes)
    assert lab.sqnr_db(data) > before_db + 6


def test_a_second_run_finds_nothing_left(lab, rng):
    named, data = weights(rng, PLAIN), spiky(rng, PLAIN)
    first = lab.run(EvenOut(), lab.build(PLAIN, **named), data)
    assert EvenOut().run(first.model, lab.context(data)).changes == 0


def test_even_channels_are_left_alone(lab, rng):
    data = spiky(rng, PLAIN, factor=1.0)
    result = lab.run(EvenOut(), lab.build(PLAIN, **weights(rng, PLAIN)), data)
    assert result.changes == 0
    assert "lower its noise" in result.notes[0].reason


def test_values_that_are_not_finite_are_left_alone(lab, rng):
    data = spiky(rng, PLAIN)
    data[1]["x"][0, 0, 0] = np.inf
    result = EvenOut().run(lab.build(PLAIN, **weights(rng, PLAIN)), lab.context(data))
    assert result.changes == 0
    assert "NaN or infinite" in result.notes[0].reason


def test_narrow_layers_and_graph_outputs(lab, rng):
    narrow = PLAIN.replace("float[N,6,64]", "float[N,6,8]")
    data = spiky(rng, narrow)
    assert EvenOut().run(lab.build(narrow, w=rng.standard_normal((32, 8), np.float32)), lab.context(data)).changes == 0
    shown = PLAIN.replace("=> (float[N,6,64] y)", "=> (float[N,6,64] y, float[N,6,64] r)").replace(
        "y = MatMul(t, w)", "y = MatMul(t, w) r = Relu(y)"
    )
    result = lab.run(EvenOut(), lab.build(shown, **weights(rng, PLAIN)), data)
    assert result.changes == 1
    assert lab.sqnr_db(data) > 100


def test_it_needs_data(lab, rng):
    ctx = replace(lab.context(spiky(rng, PLAIN)), data=None)
    with pytest.raises(DataError, match="needs data"):
        EvenOut().run(lab.build(PLAIN, **weights(rng, PLAIN)), ctx)
