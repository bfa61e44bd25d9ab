"""Gelu in the order that the runtime fuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxopt.core.io import save
from onnxopt.passes.fusion.gelu import ReorderGelu
from tests.passes.conftest import model_of, ops

X = {"x": np.linspace(-4, 4, 24, dtype=np.float32).reshape(2, 12)}
EXPORTED = "d = Div(x, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)"


def gelu(body: str = EXPORTED, outputs: str = "float[2,12] y"):
    return model_of(f"""<ir_version: 8, opset_import: ["": 17]> g (float[2,12] x) => ({outputs})
        <float root = {{1.4142135}}, float one = {{1}}, float half = {{0.5}}, float third = {{0.333}}> {{ {body} }}""")


@pytest.mark.parametrize(
    "body",
    [
        EXPORTED,
        "d = Div(x, root) e = Erf(d) a = Add(one, e) h = Mul(a, half) y = Mul(h, x)",
        "d = Mul(x, root) e = Erf(d) a = Add(e, one) h = Mul(half, a) y = Mul(x, h)",
    ],
)
def test_reordered(check, body):
    result = check(gelu(body), ReorderGelu(), X)
    assert result.changes == 1
    assert ops(result.model.graph)[-2:] == ["Mul", "Mul"]


def test_the_runtime_fuses_the_result_and_not_the_original(tmp_path):
    def kernels(model):
        save(model, path := tmp_path / "m.onnx")
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]

    assert "Erf" in kernels(gelu())
    assert kernels(ReorderGelu().run(gelu(), None).model) == ["Gelu"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (EXPORTED.replace("half", "third"), "float[2,12] y"),
        (EXPORTED.replace("Add(e, one)", "Add(e, half)"), "float[2,12] y"),
        (EXPORTED.replace("Erf", "Tanh"), "float[2,12] y"),
        (EXPORTED + " z = Neg(a)", "float[2,12] y, float[2,12] z"),
        (EXPORTED + " z = Neg(h)", "float[2,12] y, float[2,12] z"),
        (EXPORTED, "float[2,12] y, float[2,12] h"),
    ],
)
def test_left_alone(check, body, outputs):
    assert check(gelu(body, outputs), ReorderGelu(), X).changes == 0
