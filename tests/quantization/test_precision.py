from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.core.io import load
from onnxopt.core.query import Model
from onnxopt.quantization.precision import precision
from tests.cli.sample_models import cnn, mlp, parsed, write

INT8 = """
<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
m (float[N, 4] x) => (float[N, 4] y)
<float s = {0.1}, int8 z = {0}>
"""
BODIES = {
    "int8 QDQ": "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w = DequantizeLinear(w8, s, z) "
    "y = MatMul(d, w) }",
    "int8 weights": "{ w = DequantizeLinear(w8, s, z) y = MatMul(x, w) }",
    "int8 dynamic": "{ q, t, o = DynamicQuantizeLinear(x) i = MatMulInteger(q, w8, o) f = Cast<to = 1>(i) "
    "y = Mul(f, t) }",
    "int8 QOperator": "{ q = QuantizeLinear(x, s, z) p = QLinearMatMul(q, s, z, w8, s, z, s, z) "
    "y = DequantizeLinear(p, s, z) }",
    "mixed: int8 weights, float32": "{ w = DequantizeLinear(w8, s, z) a = MatMul(x, w) b = MatMul(a, w) "
    "y = MatMul(b, wf) }",
}


def opened(proto: onnx.ModelProto, folder: Path) -> Model:
    return load(write(proto, folder / "m.onnx"))


@pytest.mark.parametrize("name", list(BODIES))
def test_integer_models_are_told_by_their_layers(name: str, tmp_path: Path) -> None:
    weights = {"w8": np.eye(4, dtype=np.int8), "wf": np.eye(4, dtype=np.float32)}
    assert precision(opened(parsed(INT8 + BODIES[name], weights), tmp_path)) == name


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16"), (1, "float32")]
)
def test_float_models_are_told_by_their_weights(kind: int, name: str, tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> m (float[N, 4] x) => (float[N, 4] y) {{ c = Cast<to = {0}>(x) '
    proto = parsed(text.format(kind) + " p = MatMul(c, w) y = Cast<to = 1>(p) }")
    proto.graph.initializer.append(helper.make_tensor("w", kind, (4, 4), np.eye(4, dtype=np.float32).ravel().tolist()))
    assert precision(opened(proto, tmp_path)) == name


def test_four_bits_in_blocks(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    m (float[N, 16] x) => (float[N, 4] y) {
      y = com.microsoft.MatMulNBits<K = 16, N = 4, bits = 4, block_size = 16>(x, b, s)
    }
    """
    weights = {"b": np.zeros((4, 1, 8), np.uint8), "s": np.ones(4, np.float32)}
    assert precision(opened(parsed(text, weights), tmp_path)) == "int4 weights"


def test_models_without_weighted_layers(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m ({0}[N] x) => ({0}[N] y) {{ y = Neg(x) }}'
    assert precision(opened(parsed(text.format("float")), tmp_path)) == "float32"
    assert precision(opened(parsed(text.format("int32")), tmp_path)) == "none"


def test_a_transposed_weight_and_a_convolution(tmp_path: Path) -> None:
    assert precision(opened(cnn(), tmp_path)) == "float32"
    proto = mlp()
    half = numpy_helper.to_array(proto.graph.initializer[0]).T.astype(np.float16)
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    m (float16[N, 16] x) => (float16[N, 32] y) { t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }
    """
    assert precision(opened(parsed(text, {"w": half}), tmp_path)) == "float16"
