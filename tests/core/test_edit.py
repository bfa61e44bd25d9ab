from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.core.edit import Editor, remove_node

TEXT = """<ir_version: 8, opset_import: ["": 17, "d": 1]>
    g (float[2] x, bool c) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
        a = Add(x, w)
        y = If (c) <then_branch = t () => (float[2] inner) { inner = Neg(a) },
                    else_branch = e () => (float[2] q) { q = Abs(x) }>
        z = d.f(x) }
    <domain: "d", opset_import: ["": 17]> f (m) => (in_function) { in_function = Neg(m) }"""


@pytest.fixture
def model() -> ir.Model:
    return ir.from_onnx_text(TEXT)


def test_a_fresh_name_is_new_in_the_whole_model_and_then_taken(model):
    editor = Editor(model)
    assert [editor.fresh_name(base) for base in ("new", "new", "w", "inner", "in_function")] == [
        "new",
        "new_1",
        "w_1",
        "inner_1",
        "in_function_1",
    ]


def test_a_constant_is_an_initializer_or_a_node_where_onnx_has_none(model):
    editor = Editor(model)
    value = editor.add_constant("w", np.zeros(2, np.float32), before=model.graph.node(0))
    assert value.is_initializer() and value.name == "w_1"
    function = next(iter(model.functions.values()))
    inside = editor.add_constant("w", np.zeros(2, np.float32), before=function[0])
    assert inside.producer().op_type == "Constant"


def test_an_output_that_takes_the_place_of_another_keeps_both_names(model):
    graph = model.graph
    y, z = graph.outputs
    Editor(model).replace_value(z, y)
    assert [output.name for output in graph.outputs] == ["y", "z"]
    assert graph.outputs[1].producer().op_type == "Identity"


def test_removing_control_flow_frees_what_its_branches_read(model):
    graph = model.graph
    condition = graph.node(1)
    graph.outputs.pop(0)
    remove_node(condition)
    assert not graph.node(0).outputs[0].uses()


def test_an_input_that_is_an_output_cannot_be_replaced():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] x) { }')
    with pytest.raises(ValueError, match="cannot be replaced"):
        Editor(model).replace_value(model.graph.inputs[0], ir.val("n"))
