from __future__ import annotations

import numpy as np
import pytest

from onnxopt.passes.cleanup.noops import RemoveNoOps
from tests.passes.conftest import model_of, ops

X = {"x": np.array([[1.0, -0.0, np.nan], [-np.inf, 2.0, 3.0]], np.float32)}


def one(body: str, *, opset: int = 17, weights: str = "", outputs: str = "float[2,3] y", inputs: str = "float[2,3] x"):
    return model_of(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}')


@pytest.mark.parametrize(
    ("body", "opset", "weights"),
    [
        ("a = Identity(x)", 17, ""),
        ("a = Dropout(x)", 17, ""),
        ("a, m = Dropout <ratio = 0.3> (x)", 7, ""),
        ("a = Dropout(x, r, t)", 17, "<float r = {0.5}, bool t = {0}>"),
        ("a = Cast <to = 1> (x)", 17, ""),
        ("a = Reshape(x, s)", 17, "<int64[2] s = {2, 3}>"),
        ("a = Reshape(x, s)", 17, "<int64[2] s = {0, -1}>"),
        ("a = Transpose <perm = [0, 1]> (x)", 17, ""),
        ("a = Pad(x, p)", 17, "<int64[4] p = {0, 0, 0, 0}>"),
        ("a = Pad <pads = [0, 0, 0, 0]> (x)", 10, ""),
        ("a = Mul(x, k)", 17, "<float k = {1}>"),
        ("a = Div(x, k)", 17, "<float[1, 1] k = {1}>"),
        ("a = Sub(x, k)", 17, "<float[1] k = {0}>"),
        ("a = Concat <axis = 0> (x)", 17, ""),
        ("a = Max(x)", 17, ""),
    ],
)
def test_removed(check, body, opset, weights):
    result = check(one(f"{body} y = Abs(a)", opset=opset, weights=weights), RemoveNoOps(), X)
    assert ops(result.model.graph) == ["Abs"]
    assert result.changes == 1
    assert not result.model.graph.initializers


@pytest.mark.parametrize(
    ("body", "opset", "weights"),
    [
        ("a = Add(x, k)", 17, "<float k = {0}>"),  # -0.0 + 0.0 is 0.0
        ("a = Mul(x, k)", 17, "<float[1, 1, 1] k = {1}> "),  # makes rank 3
        ("a = Mul(x, k)", 17, "<float k = {2}>"),
        ("a = Dropout(x, r, t)", 17, "<float r = {0.0}, bool t = {1}>"),
        ("a = Transpose <perm = [1, 0]> (x)", 17, ""),
        ("a = Reshape(x, s)", 17, "<int64[2] s = {3, 2}>"),
        ("a = Reshape(x, s)", 17, "<int64[2] s = {3, -1}>"),
        ("a = Reshape(x, s)", 17, "<int64[1] s = {-1}>"),
        ("b = Cast <to = 11> (x) a = Cast <to = 1> (b)", 17, ""),
    ],
)
def test_kept(check, body, opset, weights):
    model = one(f"{body} y = Abs(a)", opset=opset, weights=weights, outputs="float y")
    model.graph.outputs[0].shape = None
    assert check(model, RemoveNoOps(), X).changes == 0


def test_mask_of_dropout_in_use_is_kept(check):
    model = one("y, m = Dropout(x)", outputs="float[2,3] y, bool[2,3] m")
    assert check(model, RemoveNoOps(), X).changes == 0


def test_output_keeps_its_name(check):
    result = check(one("a = Abs(x) y = Identity(a)"), RemoveNoOps(), X)
    assert ops(result.model.graph) == ["Abs"]
    assert result.model.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    ("body", "outputs", "weights"),
    [
        ("y = Identity(x)", "float[2,3] y", ""),
        ("y = Abs(x) z = Identity(y)", "float[2,3] y, float[2,3] z", ""),
        ("y = Identity(w)", "float[2] y", "<float[2] w = {1, 2}>"),
    ],
)
def test_declined_with_reason_where_a_name_would_be_lost(check, body, outputs, weights):
    result = check(one(body, outputs=outputs, weights=weights), RemoveNoOps(), X)
    assert result.changes == 0
    assert "name of the graph output" in result.notes[0].reason


def test_branch_may_not_return_an_outer_value(check):
    model = one(
        "a = Abs(x) y = If (c) <then_branch = t () => (float[2,3] p) { p = Identity(a) },"
        " else_branch = e () => (float[2,3] q) { b = Identity(a) q = Neg(b) }>",
        inputs="float[2,3] x, bool c",
    )
    result = check(model, RemoveNoOps(), {**X, "c": np.array(True)}, {**X, "c": np.array(False)})
    assert result.changes == 1
    assert sorted(ops(result.model.graph)) == ["(Identity)", "(Neg)", "Abs", "If"]


def test_loop_body_and_function(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x) => (float[2] y) <int64 n = {3}, bool t = {1}> {
            a = Loop (n, t, x) <body = b (int64 i, bool c, float[2] s) => (bool k, float[2] r) {
                k = Identity(c)  u = Identity(s)  r = Add(u, u) }>
            y = d.f(a) }
        <domain: "d", opset_import: ["": 17]> f (a) => (b) { c = Identity(a) b = Neg(c) }""")
    result = check(model, RemoveNoOps(), {"x": np.ones(2, np.float32)})
    assert result.changes == 2
    assert ops(result.model.graph) == ["Loop", "(Identity Add)", "f"]


def test_stale_shape_of_an_intermediate_value_is_not_believed(check):
    model = one("a = Abs(x) b = Reshape(a, s) y = Neg(b)", inputs="float[n,3] x", weights="<int64[2] s = {3, -1}>")
    model.graph.outputs[0].shape = None
    model.graph.node(0).outputs[0].shape = (
        model_of('<ir_version: 8, opset_import: ["": 17]> g (float[3,3] x) => (float y) { y = Abs(x) }')
        .graph.inputs[0]
        .shape
    )
    assert check(model, RemoveNoOps(), {"x": np.ones((2, 3), np.float32)}).changes == 0
