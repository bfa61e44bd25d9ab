from __future__ import annotations

import numpy as np

from onnxopt.passes.rewrite.inline import InlineFunctions
from tests.passes.conftest import model_of, ops

X = {"x": np.array([[-1, 2]], np.float32)}
HEAD = '<ir_version: 8, opset_import: ["": 17, "l": 1]> '


def test_calls_in_calls_are_replaced_and_outputs_keep_their_names(check):
    model = model_of(
        HEAD
        + """g (float[1,2] x) => (float[1,2] y, float[1,2] z) { y = l.outer(x) z = l.outer(y) }
        <domain: "l", opset_import: ["": 17, "l": 1]> outer (a) => (c) { b = l.inner(a) c = Neg(b) }
        <domain: "l", opset_import: ["": 17]> inner (a) => (c) { c = Relu(a) }"""
    )
    result = check(model, InlineFunctions(), X)
    assert result.changes == 2
    assert ops(result.model.graph) == ["Relu", "Neg"] * 2


def test_only_functions_with_the_named_operators(check):
    model = model_of(
        HEAD
        + """g (float[1,2] x) => (float[1,2] y) { a = l.linear(x) y = l.sign(a) }
        <domain: "l", opset_import: ["": 17, "l": 1]> linear (a) => (c) { c = l.inner(a) }
        <domain: "l", opset_import: ["": 17]> inner (a) => (c) { w = Constant <value_float = 2.0> () c = Mul(a, w) }
        <domain: "l", opset_import: ["": 17]> sign (a) => (c) { c = Neg(a) }"""
    )
    result = check(model, InlineFunctions(("Mul",)), X)
    assert ops(result.model.graph) == ["Constant", "Mul", "sign"]


def test_a_function_of_another_opset_stays_with_the_reason(check):
    model = model_of(
        HEAD
        + """g (float[1,2] x) => (float[1,2] y) { y = l.f(x) }
        <domain: "l", opset_import: ["": 16]> f (a) => (c) { c = Relu(a) }"""
    )
    result = check(model, InlineFunctions())
    assert result.changes == 0
    assert "Opset mismatch" in result.notes[0].reason


def test_a_call_inside_a_branch_and_an_attribute_of_the_call(check):
    model = model_of(
        HEAD
        + """g (float[1,2] x, bool c) => (float[1,2] y) {
        y = If (c) <then_branch = t () => (float[1,2] ty) { ty = l.f <alpha = 0.5> (x) },
                    else_branch = e () => (float[1,2] ey) { ey = l.f <alpha = 0.25> (x) }> }
        <domain: "l", opset_import: ["": 17]> f <alpha> (a) => (c) { c = LeakyRelu <alpha: float = @alpha> (a) }"""
    )
    result = check(model, InlineFunctions(), *({**X, "c": np.array(c)} for c in (True, False)))
    assert ops(result.model.graph) == ["If", "(LeakyRelu)", "(LeakyRelu)"]


def test_a_model_without_functions_is_left_alone(check):
    assert (
        check(model_of(HEAD + "g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }"), InlineFunctions(), X).changes == 0
    )
