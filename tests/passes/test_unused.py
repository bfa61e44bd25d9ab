from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.cleanup.unused import RemoveUnused
from tests.passes.conftest import model_of, ops

X = {"x": np.array([1.0, -2.0], np.float32)}


def test_removes_dead_chain_and_its_weight(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Relu(x)  a = Add(x, w)  b = Neg(a) }""")
    result = check(model, RemoveUnused(), X)
    assert ops(result.model.graph) == ["Relu"]
    assert not result.model.graph.initializers
    assert result.changes == 3


def test_nothing_to_remove(check):
    model = model_of('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    assert check(model, RemoveUnused(), X).changes == 0


def test_what_only_a_dead_branch_read_goes_too(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, bool c) => (float[2] y) {
            y = Relu(x)
            a = Exp(x)
            dead = If (c) <then_branch = t () => (float[2] p) { p = Neg(a) },
                           else_branch = e () => (float[2] q) { q = Abs(a) }>
        }""")
    result = check(model, RemoveUnused(), {**X, "c": np.array(True)})
    assert ops(result.model.graph) == ["Relu"]


def test_dead_code_inside_a_branch_and_what_it_captured(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, bool c) => (float[2] y) {
            a = Exp(x)
            y = If (c) <then_branch = t () => (float[2] p) { p = Neg(x)  unused = Sin(a) },
                        else_branch = e () => (float[2] q) <float[2] w = {1, 2}> { q = Abs(x) }>
        }""")
    result = check(model, RemoveUnused(), {**X, "c": np.array(True)}, {**X, "c": np.array(False)})
    assert ops(result.model.graph) == ["If", "(Abs)", "(Neg)"] or ops(result.model.graph) == ["If", "(Neg)", "(Abs)"]
    assert result.changes == 3


def test_unused_function_and_dead_code_in_a_used_one(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "d": 1]>
        g (float[2] x) => (float[2] y) { y = d.used(x) }
        <domain: "d", opset_import: ["": 17]> used (a) => (b) { b = Relu(a)  c = Exp(a) }
        <domain: "d", opset_import: ["": 17]> unused (a) => (b) { b = Relu(a) }""")
    result = check(model, RemoveUnused(), X)
    assert [name for _, name, _ in result.model.functions] == ["used"]
    assert [node.op_type for node in next(iter(result.model.functions.values()))] == ["Relu"]
    assert result.changes == 2


def test_overridable_default_is_part_of_the_signature(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { y = Relu(x) }""")
    default = ir.Value(name="d", const_value=ir.tensor(np.zeros(2, np.float32), name="d"))
    default.type, default.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
    model.graph.inputs.append(default)
    model.graph.register_initializer(default)
    result = check(model, RemoveUnused(), X)
    assert result.changes == 0
    assert [note.node for note in result.notes] == ["d"]


def test_initializer_that_is_an_output_stays(check):
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { y = Relu(x) }""")
    assert check(model, RemoveUnused(), X).changes == 0
