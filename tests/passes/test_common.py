from __future__ import annotations

import numpy as np
import pytest

from onnxopt.passes.cleanup.common import CommonSubexpressions
from tests.passes.conftest import model_of, ops

X = {"x": np.array([1.0, -2.0], np.float32)}


def one(body: str, outputs: str = "float[2] y", weights: str = ""):
    return model_of(f'<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => ({outputs}) {weights} {{ {body} }}')


def test_equal_chains_become_one(check):
    result = check(one("a = Exp(x) b = Exp(x) c = Neg(a) d = Neg(b) y = Add(c, d)"), CommonSubexpressions(), X)
    assert ops(result.model.graph) == ["Exp", "Neg", "Add"]
    assert result.changes == 2


@pytest.mark.parametrize(
    "body",
    [
        "a = Exp(x) b = Neg(x) y = Add(a, b)",
        "a = LeakyRelu <alpha = 0.1> (x) b = LeakyRelu <alpha = 0.2> (x) y = Add(a, b)",
        "a = Clip(x, lo, hi) b = Clip(x, lo) y = Add(a, b)",
        "a = RandomNormalLike(x) b = RandomNormalLike(x) d = Sub(a, a) e = Sub(b, b) f = Add(d, e) y = Add(x, f)",
    ],
)
def test_different_ones_stay(check, body):
    model = one(body, weights="<float lo = {-1}, float hi = {1}>")
    if "Random" in body:
        assert ops(CommonSubexpressions().run(model, None).model.graph).count("RandomNormalLike") == 2
    else:
        assert check(model, CommonSubexpressions(), X).changes == 0


def test_zero_and_minus_zero_are_different(check):
    model = one(
        "a = Constant <value_float = 0.0> () b = Constant <value_float = -0.0> () c = Div(x, a) d = Div(x, b)"
        " y = Add(c, d)"
    )
    assert check(model, CommonSubexpressions(), X).changes == 0


def test_two_equal_outputs_keep_both_names(check):
    result = check(one("y = Exp(x) z = Exp(x)", "float[2] y, float[2] z"), CommonSubexpressions(), X)
    assert ops(result.model.graph) == ["Exp", "Identity"]


def test_output_of_the_later_node_keeps_its_name(check):
    model = one("a = Exp(x) b = Neg(a) y = Exp(x) z = Add(b, y)", "float[2] y, float[2] z")
    result = check(model, CommonSubexpressions(), X)
    assert ops(result.model.graph) == ["Exp", "Neg", "Add"]


def test_inside_branches_bodies_and_functions(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x, bool c) => (float[2] y) <int64 n = {2}, bool t = {1}> {
            a = If (c) <then_branch = t1 () => (float[2] p) { u = Exp(x) v = Exp(x) p = Add(u, v) },
                        else_branch = e1 () => (float[2] q) { q = Exp(x) }>
            b = Loop (n, t, a) <body = l (int64 i, bool k, float[2] s) => (bool o, float[2] r) {
                o = Identity(k) u1 = Neg(s) v1 = Neg(s) r = Add(u1, v1) }>
            y = d.f(b) }
        <domain: "d", opset_import: ["": 17]> f (m) => (w) { g1 = Sin(m) h1 = Sin(m) w = Add(g1, h1) }""")
    result = check(model, CommonSubexpressions(), {**X, "c": np.array(True)}, {**X, "c": np.array(False)})
    assert result.changes == 3


def test_attributes_that_the_caller_decides_are_told_apart(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x) => (float[2] y) { y = d.f <p = 0.1, q = 0.2> (x) }
        <domain: "d", opset_import: ["": 17]> f <p, q> (a) => (b) {
            c = LeakyRelu <alpha: float = @p> (a) d = LeakyRelu <alpha: float = @q> (a)
            e = LeakyRelu <alpha: float = @p> (a) h = Add(c, d) b = Add(h, e) }""")
    assert check(model, CommonSubexpressions(), X).changes == 1


def test_functions_that_draw_are_called_twice():
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x) => (float[2] y) { a = d.outer(x) b = d.outer(x) c = d.pure(a) e = d.pure(a) h = Add(b, c)
            y = Add(h, e) }
        <domain: "d", opset_import: ["": 17]> inner (a) => (b) { b = RandomNormalLike(a) }
        <domain: "d", opset_import: ["": 17]> pure (a) => (b) { b = Neg(a) }
        <domain: "d", opset_import: ["": 17, "d": 1]> outer (a) => (b) { b = d.inner(a) }""")
    result = CommonSubexpressions().run(model, None)
    assert ops(result.model.graph) == ["outer", "outer", "pure", "Add", "Add"]
