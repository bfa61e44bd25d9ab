"""Calls, tolerances, the first difference and names, on a framework of a few lines of numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxopt.core.io import load, save
from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.data.sources import open_dataset
from onnxopt.errors import DataError, UsageError
from onnxopt.frameworks.base import Exporter
from onnxopt.frameworks.drawing import drawn
from onnxopt.frameworks.locate import first_difference
from onnxopt.frameworks.parity import cases_of, differing, own_difference, parity
from onnxopt.frameworks.specs import describe
from onnxopt.frameworks.tidy import tidy
from onnxopt.run.target import Target

TARGET = Target(threads=1)
FLOAT = np.dtype(np.float32)
GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
g (float[s77, s9, 3] x) => (float[s77, s9_2] val_9) <float[1] two = {2.0}, int64[1] axes = {2}> {
    a = Mul(x, two)
    b = Relu(a)
    m = ReduceMax<keepdims=0>(b, axes)
    val_9 = Concat<axis=1>(m, m)
}"""


@dataclass(frozen=True)
class Numpy:
    """max over the last axis of relu(factor x), twice; refuses more than ``most`` rows."""

    factor: float = 2.0
    most: int = 100
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", FLOAT, ("N", "T", 3)),)
    outputs: tuple[str, ...] = ("y",)
    notes: tuple[Note, ...] = ()
    framework: str = "numpy"
    versions: Mapping[str, str] = field(default_factory=dict)

    def values(self, x: np.ndarray) -> dict[str, np.ndarray]:
        a = np.float32(self.factor) * x
        b = np.maximum(a, 0)
        return {"a": a, "b": b, "m": b.max(-1), "val_9": np.concatenate([b.max(-1)] * 2, 1)}

    def run(self, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        if len(feeds["x"]) > self.most:
            raise ValueError("too many rows")
        return (self.values(feeds["x"])["val_9"],)

    def fingerprint(self) -> str:
        return f"{self.factor}"

    def feeds(self, batch: int, variant: int, seed: int) -> Mapping[str, np.ndarray]:
        return drawn(self.inputs, {"N": batch, "T": 8 if variant else 4}, seed)

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        return ()


def graph(path: Path) -> Path:
    model = parser.parse_model(GRAPH)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "s9*2"
    model.graph.node[0].doc_string = "File /home/someone/model.py"
    model.graph.node[1].metadata_props.add(key="stack", value="/home/someone/model.py")
    onnx.save(model, path)
    return path


@pytest.fixture
def tidied(tmp_path: Path) -> Path:
    model = load(graph(tmp_path / "raw.onnx"))
    tidy(model, Numpy())
    save(model, tmp_path / "tidy.onnx")
    return tmp_path / "tidy.onnx"


def test_names_and_axes_become_those_of_the_source_and_paths_go(tidied: Path) -> None:
    model = load(tidied)
    assert model.graph.outputs[0].name == "y"
    assert [str(d) for d in model.graph.inputs[0].shape or ()] == ["N", "T", "3"]
    assert [str(d) for d in model.graph.outputs[0].shape or ()] == ["N", "T*2"]
    assert b"someone" not in tidied.read_bytes()


def test_calls_of_several_sizes_agree(tidied: Path) -> None:
    cases, refused = cases_of(Numpy(most=2), None, 0)
    assert [case.title for case in cases] == ["batch 1, T 4", "batch 2, T 4", "batch 2, T 8"]
    assert [note.node for note in refused] == ["batch 8, T 4"] and "too many rows" in refused[0].reason
    rows = parity(tidied, Numpy(), cases, TARGET, None)
    assert all(row.passed and row.tolerance == 1e-4 for row in rows) and len(rows) == 3


def test_another_factor_differs_and_within_a_larger_tolerance_passes(tidied: Path) -> None:
    cases, _ = cases_of(Numpy(factor=2.02), None, 0)
    assert not any(row.passed for row in parity(tidied, Numpy(), cases, TARGET, None))
    assert all(row.passed for row in parity(tidied, Numpy(), cases, TARGET, 0.02))


def test_a_source_that_refuses_every_call_is_an_error() -> None:
    with pytest.raises(DataError, match="too many rows"):
        cases_of(Numpy(most=0), None, 0)


def test_data_are_joined_to_the_same_batch_sizes(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 5, 3), np.float32))
    data = open_dataset(str(tmp_path / "d.npz"), Numpy().inputs)
    titles = [case.title for case in cases_of(Numpy(), data, 0)[0]]
    assert titles == ["batch 1, T 5, data", "batch 2, T 5, data", "batch 8, T 5, data", "batch 2, T 8"]


@pytest.mark.parametrize(("wrong", "node"), [("a", "Mul"), ("m", "ReduceMax"), ("val_9", "Concat")])
def test_the_first_node_that_differs_is_named(wrong: str, node: str, tmp_path: Path) -> None:
    path, feeds = graph(tmp_path / "raw.onnx"), Numpy().feeds(2, 0, 0)
    values = Numpy().values(feeds["x"])
    assert first_difference(path, values, feeds, TARGET, tmp_path) is None
    later = list(values)[list(values).index(wrong) :]
    broken = {name: value + (0.1 if name in later else 0) for name, value in values.items()}
    found = first_difference(path, broken, feeds, TARGET, tmp_path)
    assert found is not None and found.op_type == node and found.value == wrong
    assert found.compared == list(values).index(wrong) and "0.1" in found.how


def test_a_difference_that_a_later_node_hides_is_found(tmp_path: Path) -> None:
    path, feeds = graph(tmp_path / "raw.onnx"), {"x": -np.ones((1, 2, 3), np.float32)}
    values = Numpy().values(feeds["x"]) | {"a": np.full((1, 2, 3), -5, np.float32)}
    found = first_difference(path, values, feeds, TARGET, tmp_path)
    assert found is not None and found.op_type == "Mul"


def test_what_counts_as_different() -> None:
    one = np.ones(3, np.float32)
    assert not differing(one * np.float32(1 + 5e-5), one) and differing(one * np.float32(1 + 2e-4), one)
    assert not differing(one.astype(np.float16) * np.float16(1.005), one.astype(np.float16))
    assert differing(np.array([1, 2]), np.array([1, 3])) and not differing(np.array([1, 2]), np.array([1, 2]))
    assert differing(one * np.nan, one) and not differing(one * np.nan, one * np.nan)
    assert differing(one * np.inf, one * -np.inf) and differing(one, one[:2])
    assert not differing(np.array(["a", "b"], object), np.array(["a", "b"]))
    assert differing(np.array(["a", "c"], object), np.array(["a", "b"]))


def test_a_source_that_does_not_repeat_itself_is_found() -> None:
    cases, _ = cases_of(Numpy(), None, 0)
    assert own_difference(Numpy(), cases) is None
    assert own_difference(Numpy(factor=2.1), cases) == "y"


def test_inputs_as_text() -> None:
    specs, sizes = describe(["x:float32[N,3,H=64,W=64]", "ids:int64[N]", "s:float64[]"])
    assert [spec.shape for spec in specs] == [("N", 3, "H", "W"), ("N",), ()] and sizes == {"H": 64, "W": 64}
    assert [spec.dtype for spec in specs] == [np.float32, np.int64, np.float64]


@pytest.mark.parametrize(
    "texts",
    [["x"], ["x:float32"], ["x:float32[N,]"], ["x:float32[0]"], ["x:float32[N=0]"], ["x:float32[N=2,N=3]"],
     ["x:float32[-1]"], ["x:half[N]"], ["x:float32[N]", "x:float32[N]"]],
)  # fmt: skip
def test_text_that_describes_no_input(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        describe(texts)
