"""Multiply-accumulates and bytes against numbers computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxopt.core.cost import Cost, cost
from onnxopt.core.io import load
from onnxopt.core.shapes import static_shapes


def costs(tmp_path: Path, signature: str, body: str, shapes: dict[str, tuple[int, ...]], **weights: np.ndarray) -> Cost:
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m {signature} {{ {body} }}')
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    model = load(tmp_path / "m.onnx")
    return cost(model, static_shapes(model, shapes))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("body", "x", "weight", "macs"),
    [
        ("y = Conv<pads=[1,1,1,1]>(x, w)", (2, 3, 8, 8), (16, 3, 3, 3), 2 * 16 * 8 * 8 * 3 * 3 * 3),
        ("y = Conv<strides=[2,2]>(x, w)", (1, 3, 9, 9), (16, 3, 3, 3), 16 * 4 * 4 * 27),
        ("y = Conv<group=4>(x, w)", (1, 4, 6, 6), (8, 1, 1, 1), 8 * 36),
        ("y = Conv<dilations=[2]>(x, w)", (1, 5, 20), (7, 5, 3), 7 * 16 * 15),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", (1, 3, 4, 4), (3, 5, 2, 2), 4 * 4 * 3 * 5 * 2 * 2),
        ("y = MatMul(x, w)", (2, 7, 16), (16, 5), 2 * 7 * 16 * 5),
        ("y = MatMul(x, w)", (16,), (16, 5), 16 * 5),
        ("y = MatMul(x, w)", (6, 2, 3), (6, 3, 4), 6 * 2 * 3 * 4),
        ("y = Gemm(x, w)", (7, 16), (16, 5), 7 * 16 * 5),
        ("y = Gemm<transB=1>(x, w)", (7, 16), (5, 16), 7 * 16 * 5),
        ("y = Gemm<transA=1>(x, w)", (16, 7), (16, 5), 7 * 16 * 5),
    ],
)
def test_macs_by_hand(body: str, x: tuple[int, ...], weight: tuple[int, ...], macs: int, tmp_path: Path) -> None:
    dims = ", ".join("ABCD"[: len(x)])
    found = costs(tmp_path, f"(float[{dims}] x) => (float y)", body, {"x": x}, w=zeros(*weight))
    assert found.total_macs == macs and found.unknown == ()
    assert found.params == int(np.prod(weight)) and found.weight_bytes == 4 * found.params


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_macs_of_recurrent_layers(op: str, gates: int, directions: int, tmp_path: Path) -> None:
    steps, batch, features, hidden = 5, 3, 8, 6
    way = "bidirectional" if directions == 2 else "forward"
    found = costs(
        tmp_path, "(float[T, N, F] x) => (float y)", f'y = {op}<hidden_size=6, direction="{way}">(x, w, r)',
        {"x": (steps, batch, features)}, w=zeros(directions, gates * hidden, features),
        r=zeros(directions, gates * hidden, hidden),
    )  # fmt: skip
    assert found.total_macs == steps * batch * directions * gates * hidden * (features + hidden)


def test_weights_in_constants_and_nested_graphs_count_once_each(tmp_path: Path) -> None:
    body = """
      c = Constant<value = float[3] {1.0, 2.0, 3.0}>()
      y = If (flip) <then_branch = t () => (float[N, 3] a) { a = Add(x, c) },
                     else_branch = e () => (float[N, 3] b) { b = MatMul(x, w) }>
    """
    found = costs(tmp_path, "(float[N, 3] x, bool flip) => (float[] y)", body, {"x": (4, 3), "flip": ()}, w=zeros(3, 3))
    assert found.params == 3 + 9 and found.weight_bytes == 4 * 12
    assert found.total_macs == 4 * 3 * 3


def test_a_wrong_shape_in_the_file_is_not_believed(tmp_path: Path) -> None:
    found = costs(
        tmp_path, "(float[N, 16] x) => (float[1, 2, 3] y)", "y = MatMul(x, w)", {"x": (7, 16)}, w=zeros(16, 5)
    )
    assert found.total_macs == 7 * 16 * 5


def test_unknown_shapes_are_named_not_guessed(tmp_path: Path) -> None:
    found = costs(tmp_path, "(float[] x) => (float[] y)", "y = MatMul(x, w)", {}, w=zeros(3, 3))
    assert found.unknown == ("MatMul->y",) and found.total_macs == 0
