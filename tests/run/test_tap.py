from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.core.io import load
from onnxopt.run.tap import chunks, observed_shapes, tap
from onnxopt.run.target import Target

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] z) {
    a = Relu(x)  b = Neg(a)  z = Add(b, x) }"""


@pytest.fixture
def model(tmp_path: Path):
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    return load(tmp_path / "m.onnx")


@pytest.mark.parametrize("budget_bytes", [1, 40, 1 << 20])
def test_values_do_not_depend_on_the_budget(model, tmp_path, budget_bytes):
    feeds = [{"x": np.full((2, 4), v, np.float32)} for v in (-1.0, 2.0)]
    found: dict[str, list[np.ndarray]] = {}
    names = ["x", "a", "b", "z"]
    for values in tap(model, names, lambda: feeds, Target(threads=1), tmp_path, budget_bytes=budget_bytes):
        for name, array in values.items():
            found.setdefault(name, []).append(array)
    assert {n: [float(a[0, 0]) for a in v] for n, v in found.items()} == {
        "x": [-1.0, 2.0],
        "a": [0.0, 2.0],
        "b": [0.0, -2.0],
        "z": [-1.0, 0.0],
    }
    assert [o.name for o in model.graph.outputs] == ["z"], "the model itself is not changed"


def test_no_samples_give_no_values(model, tmp_path):
    assert list(tap(model, ["a"], lambda: [], Target(threads=1), tmp_path)) == []


@given(st.lists(st.integers(1, 50), max_size=12), st.integers(1, 60))
def test_chunks_keep_order_and_budget(sizes, budget):
    names = [f"v{i}" for i in range(len(sizes))]
    by_name = dict(zip(names, sizes, strict=True))
    parts = chunks(names, by_name, budget)
    assert [n for part in parts for n in part] == names
    assert all(len(part) == 1 or sum(by_name[n] for n in part) <= budget for part in parts)


def test_shapes_that_depend_on_values_are_seen_in_a_run(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[M,1] z) {
        i = NonZero(x)  t = Transpose(i)  z = Cast <to=1> (t) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    feeds = {"x": np.array([0, 1, 2], np.float32)}
    assert observed_shapes(load(tmp_path / "m.onnx"), feeds, Target(threads=1), tmp_path)["t"] == (2, 1)
