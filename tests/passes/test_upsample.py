from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxopt.passes.rewrite.upsample import ConvTransposeToConv
from tests.passes.conftest import ops

RNG = np.random.default_rng(0)
X = {"x": RNG.integers(-4, 5, (2, 3, 4, 5)).astype(np.float32)}


def one(attributes: str, inputs: str = "x, w, b", rest: str = "y = Relu(u)", *, opset: int = 17, side=(2, 2), data=""):
    ranks = "N,3,H,W" if len(side) == 2 else "N,3,L"
    options = attributes and f"<{attributes}>"
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": {opset}]> g
        (float[{data or ranks}] x) => (float y) {{ u = ConvTranspose {options} ({inputs}) {rest} }}""")
    arrays = {
        "w": RNG.integers(-3, 4, (3, 6, *side)).astype(np.float32),
        "b": RNG.integers(-3, 4, 6).astype(np.float32),
        "low": np.array(-5, np.float32),
        "high": np.array(5, np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(proto)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (one("strides = [2, 2]"), ["Conv", "Relu", "DepthToSpace"]),
        (one("strides = [2, 2], kernel_shape = [2, 2]", "x, w"), ["Conv", "Relu", "DepthToSpace"]),
        (one("strides = [2, 2]", rest="y = Clip(u, low, high)"), ["Conv", "Clip", "DepthToSpace"]),
        (one("strides = [2, 2]", rest="y = Neg(u)"), ["Conv", "DepthToSpace", "Neg"]),
        (one("strides = [2, 2]", rest="r = Relu(u) y = Add(r, u)"), ["Conv", "DepthToSpace", "Relu", "Add"]),
        (one("strides = [3, 3]", side=(3, 3)), ["Conv", "Relu", "DepthToSpace"]),
        (one("", side=(1, 1)), ["Conv", "Relu"]),
        (one("strides = [2, 2]", opset=9), ["Conv", "Relu", "DepthToSpace"]),
    ],
)
def test_rewritten(check, model, expected):
    result = check(model, ConvTransposeToConv(), X)
    assert ops(result.model.graph) == expected
    assert result.changes == 1


def test_a_graph_output_and_the_label(check):
    model = one("strides = [2, 2]", rest="y = Identity(u)")
    model.graph[0].name = "up"
    model.graph.outputs[0] = model.graph[0].outputs[0]
    model.graph.remove(model.graph[1])
    result = check(model, ConvTransposeToConv(), X)
    first = result.model.graph[0]
    assert (first.op_type, first.name) == ("Conv", "up")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (one("strides = [1, 1]"), "patches overlap"),
        (one(""), "patches overlap"),
        (one("strides = [2, 2], pads = [1, 1, 1, 1]"), "cuts off"),
        (one("strides = [2, 2], output_padding = [1, 1]"), "cuts off"),
        (one("strides = [2, 2], dilations = [2, 2]"), "dilated"),
        (one('strides = [2, 2], auto_pad = "SAME_UPPER"'), "depends on the size"),
        (one("strides = [2, 2], output_shape = [8, 10]"), "depends on the size"),
        (one("strides = [2, 1]", side=(2, 1)), "not square"),
        (one("strides = [2]", side=(2,)), "not square"),
    ],
)
def test_declined(check, model, reason):
    result = ConvTransposeToConv().run(model, None)
    assert result.changes == 0
    assert reason in result.notes[0].reason


def test_groups():
    model = one("strides = [2, 2], group = 3", "x, w")
    assert "groups" in ConvTransposeToConv().run(model, None).notes[0].reason


def test_a_computed_weight():
    model = one("strides = [2, 2]")
    negated = ir.node("Neg", [model.graph.initializers["w"]])
    negated.outputs[0].name = "v"
    model.graph.insert_before(model.graph[0], negated)
    model.graph[1].replace_input_with(1, negated.outputs[0])
    assert ConvTransposeToConv().run(model, None).notes[0].reason == "its weight is computed by Neg"
