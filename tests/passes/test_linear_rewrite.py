from __future__ import annotations

import numpy as np
import pytest

from onnxopt.passes.rewrite.linear import MatMulAddToGemm
from tests.passes.conftest import model_of, ops

RNG = np.random.default_rng(0)


def one(dims: str, body: str = "h = MatMul(x, w) y = Add(h, b)", *, result: str = "float y", bias: str = "2"):
    model = model_of(f"""<ir_version: 8, opset_import: ["": 17]> g (float[{dims}] x) => ({result})
        <float[3,2] w = {{1, 2, 3, 4, 5, 6}}, float[{bias}] b = {{0.5, -0.5}}, float scalar = {{1}}> {{ {body} }}""")
    for value in model.graph.outputs:
        value.shape = None
    return model


def feeds(*shape: int):
    return {"x": RNG.integers(-4, 5, shape).astype(np.float32)}


@pytest.mark.parametrize("bias", ["2", "1,2"])
@pytest.mark.parametrize("body", ["h = MatMul(x, w) y = Add(h, b)", "h = MatMul(x, w) y = Add(b, h)"])
def test_two_dimensions(check, body, bias):
    result = check(one("N,3", body, bias=bias), MatMulAddToGemm(), feeds(5, 3))
    assert ops(result.model.graph) == ["Gemm"]


def test_more_dimensions_of_known_size_are_joined(check):
    result = check(one("2,4,3"), MatMulAddToGemm(), feeds(2, 4, 3))
    assert ops(result.model.graph) == ["Reshape", "Gemm", "Reshape"]


def test_inside_a_branch(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]> g (float[4,3] x, bool c) => (float[4,2] y)
        <float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {0.5, -0.5}> {
        y = If (c) <then_branch = t () => (float[4,2] ty) { h = MatMul(x, w) ty = Add(h, b) },
                    else_branch = e () => (float[4,2] ey) { g = MatMul(x, w) ey = Relu(g) }> }""")
    result = check(model, MatMulAddToGemm(), *({**feeds(4, 3), "c": np.array(c)} for c in (True, False)))
    assert ops(result.model.graph) == ["If", "(Gemm)", "(MatMul Relu)"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (one("N,4,3"), "the shape of its data is not known"),
        (one("N,3", "h = MatMul(x, w) y = Add(h, scalar)"), "not one value for each column"),
        (one("N,3", "v = Neg(w) h = MatMul(x, v) y = Add(h, b)"), "its weight is computed by Neg"),
        (one("N,3", "h = MatMul(x, w) y = Add(h, b)", bias="1,1,2"), "not one value for each column"),
    ],
)
def test_declined(check, model, reason):
    result = check(model, MatMulAddToGemm())
    assert result.changes == 0
    assert reason in result.notes[0].reason


@pytest.mark.parametrize(
    "model",
    [
        one("N,3", "h = MatMul(x, w) y = Add(h, b) z = Relu(h)", result="float y, float z"),
        one("N,3", "h = MatMul(x, w) y = Add(h, b)", result="float y, float h"),
        one("N,3", "h = MatMul(x, w) y = Add(h, h)"),
        one("N,3", "y = MatMul(x, w)"),
    ],
)
def test_left_alone(check, model):
    assert check(model, MatMulAddToGemm(), feeds(2, 3)).changes == 0


def test_the_label_stays(check):
    named, unnamed = one("N,3"), one("N,3")
    named.graph[0].name = "fc"
    assert check(named, MatMulAddToGemm()).model.graph[0].name == "fc"
    assert check(unnamed, MatMulAddToGemm()).model.graph[0].name == "MatMul->h"
