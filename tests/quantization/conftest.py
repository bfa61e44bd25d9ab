"""Small models in text form, a data set for them, and what ONNX Runtime makes of the result."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from onnxopt.core.io import load, save
from onnxopt.data.content import Digest
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.passes.base import Context, Pass, PassResult
from onnxopt.run.target import Target


class Lab:
    """Builds a model, runs a pass on it, looks at the kernels and outputs before and after."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source.onnx"
        self.result = folder / "result.onnx"

    def build(self, text: str, **weights: np.ndarray) -> ir.Model:
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
        onnx.save(proto, self.source)
        return load(self.source)

    def run(self, item: Pass, model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> PassResult:
        result = item.run(model, self.context(feeds))
        save(result.model, self.result)
        onnx.checker.check_model(self.result, full_check=True)
        return result

    def context(self, feeds: list[dict[str, np.ndarray]]) -> Context:
        samples = [Sample(f) for f in feeds]
        digest = Digest("test")
        for array in (a for f in feeds for a in f.values()):
            digest.array(array)
        data = Dataset("test", lambda i: samples[i], tuple(range(len(samples))), digest.hex(), False)
        return Context(self.folder, data, Target(threads=1))

    def kernels(self) -> Counter[str]:
        """Node types of the result after ONNX Runtime's own optimizations."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(self.folder / "optimized.onnx")
        ort.InferenceSession(self.result, options, providers=["CPUExecutionProvider"])
        return Counter(n.op_type for n in onnx.load(self.folder / "optimized.onnx").graph.node)

    def outputs(self, path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)

    def sqnr_db(self, feeds: list[dict[str, np.ndarray]]) -> float:
        """Over all outputs; 8-bit grids that are used well give 25 dB and more per layer."""
        signal = noise = 0.0
        for feed in feeds:
            for a, b in zip(self.outputs(self.source, feed), self.outputs(self.result, feed), strict=True):
                signal += float((a.astype(np.float64) ** 2).sum())
                noise += float(((a.astype(np.float64) - b) ** 2).sum())
        return 10 * np.log10(signal / noise) if noise else float("inf")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
