"""Small classifiers whose names clash, in forms that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

FEATURES, CLASSES = 12, 4

NET = """
<ir_version: 8, opset_import: ["" : {opset}]>
net (float[{batch}, 12] {x}) => (float[{batch}, 4] {y}) {{
  h = MatMul({x}, w1)
  r = Relu(h)
  {last} = MatMul(r, w2)
  {end}
}}
"""
STATE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[T, 1, 12] x, float[1, 1, 4] h0) => (float[T, 1, 1, 4] y, float[1, 1, 4] hn) {
  y, hn = GRU<hidden_size = 4>(x, w, r, , , h0)
}
"""
BOXES = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 5, 4] b, float[1, 2, 5] s) => (float[N, 3] found) {
  i = NonMaxSuppression(b, s)
  found = Cast<to = 1>(i)
}
"""


def weights(seed: int, features: int = FEATURES, classes: int = CLASSES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w1": rng.standard_normal((features, 16)).astype(np.float32),
        "w2": rng.standard_normal((16, classes)).astype(np.float32),
    }


def net(
    path: Path,
    seed: int,
    *,
    opset: int = 17,
    batch: int | str = "N",
    x: str = "x",
    y: str = "y",
    softmax: bool = True,
    initial: dict[str, np.ndarray] | None = None,
) -> Path:
    last, end = ("l", f"{y} = Softmax<axis = 1>(l)") if softmax else (y, "")
    model = parser.parse_model(NET.format(opset=opset, batch=batch, x=x, y=y, last=last, end=end))
    values = weights(seed) if initial is None else initial
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in values.items())
    onnx.save(model, path)
    return path


def from_text(path: Path, text: str, **initial: np.ndarray) -> Path:
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in initial.items())
    onnx.save(model, path)
    return path


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)


def truth(x: np.ndarray, *seeds: int) -> np.ndarray:
    """What the nets of these seeds together answer, so that their mean is the best there is."""
    total = np.zeros((len(x), CLASSES))
    for seed in seeds:
        w = weights(seed)
        scores = np.maximum(x @ w["w1"], 0) @ w["w2"]
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        total += shares / shares.sum(axis=1, keepdims=True)
    return total.argmax(axis=1)
