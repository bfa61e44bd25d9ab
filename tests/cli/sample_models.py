"""Small models and data that the command-line tests start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

FEATURES, HIDDEN, CLASSES = 16, 32, 4

MLP = """
<ir_version: 8, opset_import: ["" : 17]>
mlp (float[N, 16] x) => (float[N, 4] y) {
  h = MatMul(x, w1)
  r = Relu(h)
  y = MatMul(r, w2)
}
"""
CNN = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
cnn (float[N, 3, 8, 8] x) => (float[N, 4] y) {{
  c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w1, b1)
  n = BatchNormalization(c, s, t, mean, var)
  r = Relu(n)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm<transB = 1>(f, w2, b2)
}}
"""
CUSTOM = """
<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
custom (float[N, 4] x) => (float[N, 4] y) {
  y = acme.Wobble(x)
}
"""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def mlp_weights() -> dict[str, np.ndarray]:
    return {"w1": normal(FEATURES, HIDDEN, seed=1), "w2": normal(HIDDEN, CLASSES, seed=2)}


def cnn_weights() -> dict[str, np.ndarray]:
    return {
        "w1": normal(8, 3, 3, 3, seed=1),
        "b1": normal(8, seed=2),
        "s": normal(8, seed=3),
        "t": normal(8, seed=4),
        "mean": normal(8, seed=5),
        "var": np.square(normal(8, seed=6)) + 0.5,
        "w2": normal(CLASSES, 8, seed=7),
        "b2": normal(CLASSES, seed=8),
    }


def parsed(text: str, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """The model that ``text`` describes, with initializers added to its main graph."""
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in (weights or {}).items())
    return model


def mlp() -> onnx.ModelProto:
    return parsed(MLP, mlp_weights())


def cnn(opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    return parsed(CNN.format(opset=opset, ir=ir), cnn_weights())


def with_initializers_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every initializer listed among the graph inputs, as IR version 3 demands."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def write_external(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> Path:
    onnx.save_model(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def set_external(path: Path, key: str, value: str) -> None:
    """Rewrites one field of the external data of the first external tensor of the model at ``path``."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
    write(model, path)


def mlp_data(path: Path, samples: int = 64, **arrays: np.ndarray) -> Path:
    """An npz for the MLP; ``arrays`` replace or add entries."""
    np.savez(path, **{"x": normal(samples, FEATURES, seed=9), **arrays})
    return path


def cnn_data(path: Path, samples: int = 12) -> Path:
    np.savez(path, x=normal(samples, 3, 8, 8, seed=9))
    return path
