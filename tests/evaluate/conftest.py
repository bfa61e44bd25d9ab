from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxopt.data.dataset import Dataset, Sample
from onnxopt.run.target import Target

FEATURES, CLASSES = 8, 4


@pytest.fixture
def target() -> Target:
    return Target(threads=1)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the model of a textual graph, with initializers given as arrays."""

    def build(name: str, graph: str, **weights: np.ndarray) -> Path:
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{graph}')
        for key, value in weights.items():
            model.graph.initializer.append(numpy_helper.from_array(value, key))
        onnx.checker.check_model(model)
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path)
        return path

    return build


@pytest.fixture
def classifier(write: Callable[..., Path]) -> Callable[..., Path]:
    """A linear classifier whose weights are disturbed by ``noise``."""

    def build(name: str, noise: float = 0.0, tail: str = "MatMul(x, w)", seed: int = 1) -> Path:
        weight = np.random.default_rng(0).normal(size=(FEATURES, CLASSES))
        weight += noise * np.random.default_rng(seed).normal(size=weight.shape)
        graph = f"g (float[N,{FEATURES}] x) => (float[N,{CLASSES}] y) {{ y = {tail} }}"
        return write(name, graph, w=weight.astype(np.float32))

    return build


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    """Samples of feeds and labels that are given as lists."""

    def build(feeds: list[dict[str, np.ndarray]], labels: list[np.ndarray] | None = None) -> Dataset:
        def read(i: int) -> Sample:
            return Sample(feeds[i], None if labels is None else labels[i])

        digest = hashlib.sha256(repr(len(feeds)).encode()).hexdigest()
        return Dataset("made-up", read, tuple(range(len(feeds))), digest, labels is not None)

    return build


@pytest.fixture
def inputs() -> list[dict[str, np.ndarray]]:
    """40 calls of 5 items for the classifier."""
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(size=(5, FEATURES)).astype(np.float32)} for _ in range(40)]
