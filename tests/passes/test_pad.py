from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.passes.fusion.pad import FoldPad
from tests.passes.conftest import model_of, ops

X = {"x": np.random.default_rng(0).normal(size=(1, 1, 4, 5)).astype(np.float32)}
CONV = "y = Conv(a, w)"


def one(pad: str, conv: str = CONV, *, opset: int = 18):
    model = model_of(f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[1,1,4,5] x) => (float y)
        <float[1,1,2,2] w = {{1, 2, 3, 4}}, int64[8] p = {{0, 0, 1, 2, 0, 0, 0, 1}}, int64[4] q = {{1, 2, 0, 1}},
         int64[2] axes = {{2, -1}}, int64[8] n = {{0, 0, -1, 0, 0, 0, 0, 0}}, int64[8] ch = {{0, 1, 0, 0, 0, 0, 0, 0}},
         float zero = {{0}}, float one = {{1}}> {{ a = {pad} {conv} }}""")
    model.graph.outputs[0].shape = None
    return model


@pytest.mark.parametrize(
    ("pad", "conv", "opset"),
    [
        ("Pad <pads = [0, 0, 1, 2, 0, 0, 0, 1]> (x)", CONV, 10),
        ("Pad(x, p)", CONV, 11),
        ("Pad(x, p, zero)", CONV, 13),
        ("Pad(x, q, , axes)", CONV, 18),
        ("Pad(x, p)", "y = Conv <pads = [1, 0, 2, 3]> (a, w)", 18),
        ('Pad <mode = "constant"> (x, p)', 'y = Conv <auto_pad = "VALID"> (a, w)', 18),
        ("Pad(x, p)", 'y = Conv <auto_pad = "NOTSET", strides = [2, 2]> (a, w)', 18),
    ],
)
def test_folded(check, pad, conv, opset):
    result = check(one(pad, conv, opset=opset), FoldPad(), X)
    assert ops(result.model.graph) == ["Conv"]
    assert result.changes == 1


@pytest.mark.parametrize(
    ("pad", "conv", "reason"),
    [
        ('Pad <mode = "reflect"> (x, p)', CONV, "does not pad by a constant"),
        ("Pad(x, p, one)", CONV, "does not pad by zero"),
        ("Pad(x, n)", CONV, "cuts off"),
        ("Pad(x, p)", 'y = Conv <auto_pad = "SAME_UPPER"> (a, w)', "pads by itself"),
        ("Pad(x, p)", "z = Relu(a) y = Conv(a, w)", "used elsewhere"),
    ],
)
def test_declined(check, pad, conv, reason):
    result = check(one(pad, conv), FoldPad(), X)
    assert result.changes == 0
    assert reason in result.notes[0].reason


def test_channels():
    assert "batch or the channels" in FoldPad().run(one("Pad(x, ch)"), None).notes[0].reason


def test_padding_computed_at_run_time():
    model = one("Pad(x, p)")
    pad = model.graph.node(0)
    shifted = ir.node("Add", [model.graph.initializers["p"], model.graph.initializers["ch"]])
    shifted.outputs[0].name = "r"
    model.graph.insert_before(pad, shifted)
    pad.replace_input_with(1, shifted.outputs[0])
    assert "its padding is not constant" in FoldPad().run(model, None).notes[0].reason
