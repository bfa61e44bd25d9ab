"""A layer that stays float between quantized neighbours: ONNX Runtime does not quantize it behind our back."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.core.io import save
from onnxopt.core.query import nodes
from onnxopt.passes.cleanup.noops import RemoveNoOps
from onnxopt.quantization.barrier import protect_float, unprotect
from onnxopt.quantization.static import StaticQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
CONVS = (
    HEAD
    + """(float[1,4,8,8] x) => (float[1,8,8,8] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)
    [middle] b = Conv <pads=[1,1,1,1], group=8> (r, w2)  s = ACT(b)
    y = Conv <pads=[1,1,1,1]> (s, w3) }"""
)
GEMMS = (
    HEAD + "(float[4,16] x) => (float[4,16] y) { a = Gemm(x, w1) r = Relu(a) [middle] b = Gemm(r, w2) y = Gemm(b, w3) }"
)


def case(text, rng):
    shapes = ((8, 4, 3, 3), (8, 1, 3, 3), (8, 8, 3, 3)) if "Conv" in text else ((16, 16),) * 3
    named = {f"w{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes, 1)}
    first = (slice(None), 0) if "Gemm" in text else 0
    named["w2"][first] *= 30  # one scale for the whole tensor loses the other channels, which count as much
    named["w3"][0 if "Gemm" in text else (slice(None), 0)] /= 30
    size = (1, 4, 8, 8) if "Conv" in text else (4, 16)
    return named, [{"x": rng.standard_normal(size).astype(np.float32)} for _ in range(6)]


@pytest.mark.parametrize("text", [CONVS.replace("ACT", "Relu"), CONVS.replace("ACT", "Identity"), GEMMS])
def test_what_is_excluded_runs_in_float(lab, rng, text):
    named, data = case(text, rng)
    result = lab.run(StaticQuantize(exclude=("middle",)), lab.build(text, **named), data)
    assert result.changes == 2
    kernels = lab.kernels()
    integer, floating = ("QLinearConv", "Conv") if "Conv" in text else ("QGemm", "Gemm")
    assert kernels[integer] == 2, kernels
    assert kernels[floating] + kernels[f"Fused{floating}"] == 1, kernels
    protected_db = lab.sqnr_db(data)
    unprotect(result.model)
    save(result.model, lab.result)
    assert lab.sqnr_db(data) < protected_db - 1


def test_clean_ups_leave_the_copy_alone_and_a_second_call_adds_none(lab, rng):
    named, data = case(GEMMS, rng)
    model = lab.run(StaticQuantize(exclude=("middle",)), lab.build(GEMMS, **named), data).model
    copies = [n for n in nodes(model) if n.op_type == "Max"]
    assert len(copies) == 1
    assert RemoveNoOps().run(model, lab.context(data)).changes == 0
    assert protect_float(model) == 0
    unprotect(model)
    assert not [n for n in nodes(model) if n.op_type == "Max"]
