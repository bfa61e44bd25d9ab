"""LSTM on integer weights against the float one in ONNX Runtime, for all that an LSTM can have."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxopt.core.io import load, save
from onnxopt.errors import UsageError
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.mixed import MixedQuantize
from onnxopt.quantization.static import StaticQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
STEPS, BATCH, INPUTS, HIDDEN = 12, 3, 24, 16


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def lstm(rng, directions=1):
    rows = 4 * HIDDEN
    return {
        "w": weight(rng, directions, rows, INPUTS),
        "r": weight(rng, directions, rows, HIDDEN),
        "b": weight(rng, directions, 2 * rows),
    }


def sequences(rng, count=3):
    return [{"x": rng.standard_normal((STEPS, BATCH, INPUTS)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize(
    ("attributes", "inputs", "directions"),
    [
        ("", "x, w, r", 1),
        ("", "x, w, r, b", 1),
        ('direction = "reverse",', "x, w, r, b", 1),
        ('direction = "bidirectional",', "x, w, r, b", 2),
        ("", "x, w, r, b, , h, c", 1),
        ("", "x, w, r, b, lens, , , p", 1),
        ("clip = 0.5, input_forget = 1,", "x, w, r, b", 1),
        ('activations = ["Sigmoid", "Relu", "Tanh"],', "x, w, r, b", 1),
    ],
)
def test_all_that_an_lstm_can_have_survives(lab, rng, attributes, inputs, directions):
    text = (
        HEAD
        + f"""(float[T,{BATCH},{INPUTS}] x) => (float y, float yh, float yc) {{
        y, yh, yc = LSTM <{attributes} hidden_size = {HIDDEN}> ({inputs}) }}"""
    )
    arrays = lstm(rng, directions) | {
        "h": weight(rng, 1, BATCH, HIDDEN),
        "c": weight(rng, 1, BATCH, HIDDEN),
        "lens": np.array([STEPS, 5, 1], np.int32),
        "p": weight(rng, 1, 3 * HIDDEN),
    }
    model = lab.build(text, **{name: array for name, array in arrays.items() if name in inputs.split(", ")})
    for value in model.graph.outputs:
        value.shape = None
    data = sequences(rng)
    assert lab_run(lab, model, data).changes == 1
    assert lab.kernels() == {"DynamicQuantizeLSTM": 1}
    assert lab.sqnr_db(data) > 30


def lab_run(lab, model, data, item=None):
    """Without onnx.checker's shape inference, which does not know the runtime's own operator."""
    result = (item or DynamicQuantize()).run(model, lab.context(data))
    source = load(lab.source)
    for value in source.graph.outputs:
        value.shape = None
    save(source, lab.source)
    save(result.model, lab.result)
    return result


def test_rows_of_very_different_size_keep_their_precision(lab, rng):
    text = HEAD + f"(float[T,{BATCH},{INPUTS}] x) => (float y) {{ y = LSTM <hidden_size = {HIDDEN}> (x, w, r, b) }}"
    arrays = lstm(rng)
    arrays["w"][:, ::4] *= 100  # one scale for all rows would leave the others 0 or 1 codes
    arrays["b"][:, :] *= 0
    data = sequences(rng)
    lab_run(lab, lab.build(text, **arrays), data)
    assert lab.sqnr_db(data) > 25


def test_unused_outputs_stay_unnamed_and_the_node_keeps_its_name(lab, rng):
    text = HEAD + f"(float[T,{BATCH},{INPUTS}] x) => (float yh) {{ , yh = LSTM <hidden_size = {HIDDEN}> (x, w, r, b) }}"
    proto = onnx.parser.parse_model(text.replace("{ , yh", "{ y, yh"))
    proto.graph.node[0].output[0] = ""
    proto.graph.node[0].name = "memory"
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in lstm(rng).items())
    onnx.save(proto, lab.source)
    data = sequences(rng)
    lab_run(lab, load(lab.source), data)
    node = onnx.load(lab.result).graph.node[0]
    assert (node.name, list(node.output)) == ("memory", ["", "yh"])
    assert lab.sqnr_db(data) > 30


def test_an_lstm_in_a_branch_and_one_in_a_function(lab, rng):
    text = f"""<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g
        (float[T,{BATCH},{INPUTS}] x, bool c) => (float z) {{
        z = If (c) <then_branch = t () => (float ty) {{ ty = local.memory(x) }},
                    else_branch = e () => (float ey) {{ ey = LSTM <hidden_size = {HIDDEN}> (x, w, r, b) }}> }}
        <domain: "local", opset_import: ["" : 17]> memory (a) => (y) {{
            w = Constant()  r = Constant()  y = LSTM <hidden_size = {HIDDEN}> (a, w, r) }}"""
    proto = onnx.parser.parse_model(text)
    arrays = lstm(rng)
    for node, name in zip(proto.functions[0].node, "wr", strict=False):
        tensor = numpy_helper.from_array(arrays[name], name)
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    onnx.save(proto, lab.source)
    data = [{**feed, "c": np.array(i % 2 == 0)} for i, feed in enumerate(sequences(rng))]
    assert lab_run(lab, load(lab.source), data).changes == 2
    assert lab.sqnr_db(data) > 30


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = LSTM <hidden_size = 16, layout = 1> (x, w, r)", "its batch comes first"),
        ("v = Neg(w)  y = LSTM <hidden_size = 16> (x, v, r)", "its weight is computed by Neg"),
        ("v = Neg(r)  y = LSTM <hidden_size = 16> (x, w, v)", "its recurrent weight is computed by Neg"),
        ("y = GRU <hidden_size = 16> (x, w, r)", "no integer kernel for GRU"),
        ("y = RNN <hidden_size = 16> (x, w, r)", "no integer kernel for RNN"),
    ],
)
def test_declined(lab, rng, body, reason):
    model = lab.build(HEAD + f"(float[T,{BATCH},{INPUTS}] x) => (float y) {{ {body} }}", **lstm(rng))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = DynamicQuantize().run(model, lab.context(sequences(rng)))
    assert result.changes == 0
    assert reason in result.notes[0].reason
    assert ir.to_proto(result.model).SerializeToString(deterministic=True) == before


def test_weights_that_are_not_finite_are_declined(lab, rng):
    arrays = lstm(rng)
    arrays["r"][0, 0, 0] = np.inf
    text = HEAD + f"(float[T,{BATCH},{INPUTS}] x) => (float y) {{ y = LSTM <hidden_size = {HIDDEN}> (x, w, r) }}"
    result = DynamicQuantize().run(lab.build(text, **arrays), lab.context(sequences(rng)))
    assert [n.reason for n in result.notes] == ["its recurrent weight holds NaN or infinity"]


MIXED = (
    HEAD
    + f"""(float[T,{BATCH},{INPUTS}] x) => (float[T,{BATCH},8] z) {{
    h = MatMul(x, w1)  a = Relu(h)  y = LSTM <hidden_size = {HIDDEN}> (a, w, r, b)
    axis = Constant <value = int64[1] {{1}}> ()  s = Squeeze(y, axis)  z = MatMul(s, w2) }}"""
)


def mixed(lab, rng):
    arrays = {"w1": weight(rng, INPUTS, INPUTS), "w2": weight(rng, HIDDEN, 8)} | lstm(rng)
    model = lab.build(MIXED, **arrays)
    model.graph[0].name, model.graph[-1].name, model.graph[2].name = "first", "last", "memory"
    return model


def test_dynamic_takes_what_static_leaves(lab, rng):
    data = sequences(rng)
    result = lab_run(lab, mixed(lab, rng), data, MixedQuantize(static=StaticQuantize(keep_float=("last",))))
    assert result.changes == 3
    assert result.notes == ()
    kernels = lab.kernels()
    assert kernels["DynamicQuantizeLSTM"] == kernels["DynamicQuantizeMatMul"] == 1
    assert not kernels.keys() & {"MatMul", "LSTM"}
    assert lab.sqnr_db(data) > 25


def test_dynamic_nodes_are_those_and_no_others(lab, rng):
    data = sequences(rng)
    result = lab_run(lab, mixed(lab, rng), data, MixedQuantize(dynamic_nodes=("first",)))
    assert result.changes == 2
    assert [n.node for n in result.notes] == ["memory"]
    kernels = lab.kernels()
    assert kernels["DynamicQuantizeMatMul"] == kernels["MatMulIntegerToFloat"] == kernels["LSTM"] == 1
    with pytest.raises(UsageError, match="matches no node"):
        MixedQuantize(dynamic=DynamicQuantize(exclude=("nothing",))).run(mixed(lab, rng), lab.context(data))


def test_keep_float_of_the_dynamic_form(lab, rng):
    result = lab_run(lab, mixed(lab, rng), sequences(rng), DynamicQuantize(keep_float=("memory", "last")))
    assert result.changes == 1
    assert {n.node for n in result.notes} == {"memory", "last"}


def test_dynamic_after_static_leaves_integers_alone(lab, rng):
    data = sequences(rng)
    static = StaticQuantize().run(mixed(lab, rng), lab.context(data))
    result = DynamicQuantize(exclude=("LSTM",)).run(static.model, lab.context(data))
    assert result.changes == 0
    assert {n.reason for n in result.notes} == {"excluded", "its weight is quantized already"}
