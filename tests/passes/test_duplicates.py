from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.cleanup.duplicates import DeduplicateInitializers
from tests.passes.conftest import model_of

X = {"x": np.array([1.0, -2.0], np.float32)}


def test_equal_content_is_stored_once(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)
        <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 3}, float[1, 2] d = {1, 2}> {
            e = Add(x, a) f = Add(e, b) h = Add(f, c) i = Add(h, d) s = Shape(x) y = Reshape(i, s) }""")
    result = check(model, DeduplicateInitializers(), X)
    assert list(result.model.graph.initializers) == ["a", "c", "d"]
    assert result.changes == 1


def test_type_sign_of_zero_inputs_and_outputs_keep_their_own(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y, float[2] w)
        <float[2] w = {1, 2}, float[2] a = {1, 2}, int32[2] b = {0, 0}, float[2] c = {0, 0}, float[2] d = {-0.0, 0}> {
            e = Add(x, a) f = Cast <to = 1> (b) h = Add(e, f) i = Add(h, c) y = Add(i, d) }""")
    assert check(model, DeduplicateInitializers(), X).changes == 0


def test_a_branch_uses_the_outer_copy(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]> g (float[2] x, bool c) => (float[2] y)
        <float[2] a = {1, 2}> {
            z = Add(x, a)
            y = If (c) <then_branch = t () => (float[2] p) <float[2] k = {1, 2}> { p = Add(z, k) },
                        else_branch = e () => (float[2] q) <float[2] k2 = {5, 2}> { q = Add(z, k2) }> }""")
    result = check(model, DeduplicateInitializers(), {**X, "c": np.array(True)}, {**X, "c": np.array(False)})
    assert result.changes == 1


def test_strings_with_a_trailing_zero_are_different():
    model = model_of('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    for name, item in (("a", b"s"), ("b", b"s\0"), ("c", b"s")):
        value = ir.Value(name=name, const_value=ir.StringTensor([item], shape=ir.Shape([1]), name=name))
        model.graph.register_initializer(value)
    assert DeduplicateInitializers().run(model, None).changes == 1
    assert list(model.graph.initializers) == ["a", "b"]
