import numpy as np
import onnx
from onnx import numpy_helper

from onnxopt.core.io import load
from onnxopt.quantization.dynamic import DynamicQuantize

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '


def weight(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def test_matmul_in_branches_is_quantized(lab, rng):
    text = (
        HEAD
        + """(float[4,16] x, bool c) => (float[4,16] z) {
        z = If (c) <then_branch = t () => (float[4,16] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[4,16] b) { n = Neg(x)  b = MatMul(n, w) }> }"""
    )
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32), "c": np.array(c)} for c in (True, False)]
    assert lab.run(DynamicQuantize(), lab.build(text, w=weight(rng, 16, 16)), data).changes == 2
    assert lab.sqnr_db(data) > 35
    branches = [a.g for n in onnx.load(lab.result).graph.node for a in n.attribute if a.HasField("g")]
    assert len(branches) == 2
    assert all("MatMul" not in {n.op_type for n in g.node} for g in branches)


def test_matmul_in_a_local_function_is_quantized(lab, rng):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[4,16] x) => (float[4,16] z) {
        y = local.linear(x)  z = local.linear(y) }
        <domain: "local", opset_import: ["" : 17]> linear (a) => (b) { w = Constant()  b = MatMul(a, w) }"""
    proto = onnx.parser.parse_model(text)
    values = numpy_helper.from_array(weight(rng, 16, 16), "w")
    proto.functions[0].node[0].attribute.append(onnx.helper.make_attribute("value", values))
    onnx.save(proto, lab.source)
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)}]
    assert lab.run(DynamicQuantize(), load(lab.source), data).changes == 1
    assert lab.sqnr_db(data) > 32


def test_a_shared_weight_leaves_no_float_copy_and_alpha_is_kept(lab, rng):
    text = (
        HEAD
        + """(float[4,16] x) => (float[4,16] y, float[4,16] z) {
        y = MatMul(x, w)  z = Gemm <alpha=2.0, beta=1.0> (x, w, b) }"""
    )
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)}]
    lab.run(DynamicQuantize(), lab.build(text, w=weight(rng, 16, 16), b=np.ones(16, np.float32)), data)
    assert lab.sqnr_db(data) > 35
    floats = [i for i in onnx.load(lab.result).graph.initializer if list(i.dims) == [16, 16] and i.data_type == 1]
    assert not floats


def test_a_column_of_zeros_stays_zero(lab, rng):
    text = HEAD + "(float[4,16] x) => (float[4,16] y) { y = MatMul(x, w) }"
    values = weight(rng, 16, 16)
    values[:, 5] = 0
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)}]
    lab.run(DynamicQuantize(), lab.build(text, w=values), data)
    assert (lab.outputs(lab.result, data[0])[0][:, 5] == 0).all()
