"""Models in text form, cut at random, against the same model with the channels zeroed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxopt.core.io import load, save
from onnxopt.core.query import Model
from onnxopt.pruning.structure import Structure, analyse
from onnxopt.pruning.surgery import cut, zeroed
from onnxopt.run.session import open_session
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

Feeds = dict[str, np.ndarray]
TARGET = Target(threads=1)


class Bench:
    """Builds a model from text, cuts it, and compares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)

    def build(self, text: str, header: str = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>') -> Model:
        """The model; initializers without values get random ones."""
        proto = parser.parse_model(f"{header}\n{text}")
        onnx.save(proto, self.folder / "m.onnx")
        return load(self.folder / "m.onnx")

    def weights(self, model: Model, **shapes: tuple[int, ...]) -> Model:
        """The model with random constants of these names and shapes."""
        proto = onnx.load(self.folder / "m.onnx")
        for name, shape in shapes.items():
            numbers = self.rng.standard_normal(shape).astype(np.float32)
            numbers = np.abs(numbers) + 0.5 if name.startswith("var") else numbers
            proto.graph.initializer.append(numpy_helper.from_array(numbers, name))
        onnx.save(proto, self.folder / "m.onnx")
        del model
        return load(self.folder / "m.onnx")

    def structure(self, model: Model, feeds: Feeds) -> Structure:
        return analyse(model, observed_shapes(model, feeds, TARGET, self.folder))

    def units(self, model: Model, feeds: Feeds) -> list[int]:
        """Units of each group."""
        return [len(g.units) for g in self.structure(model, feeds).groups]

    def check(self, model: Model, feeds: Feeds, *more: Feeds, seeds: int = 3) -> None:
        """Cut equals zeroed on all feeds, whichever units go; the file is valid and can be cut again."""
        shapes = observed_shapes(model, feeds, TARGET, self.folder)
        structure = analyse(model, shapes)
        assert structure.groups, "nothing can be cut"
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            dead: set[int] = set()
            for group in structure.groups:
                dead.update(rng.choice(group.units, int(rng.integers(1, len(group.units))), replace=False).tolist())
            small, twin = self.folder / "small.onnx", self.folder / "twin.onnx"
            save(cut(model, shapes, dead), small)
            save(zeroed(model, structure, dead), twin)
            onnx.checker.check_model(small, full_check="com.microsoft" not in str(onnx.load(small).opset_import))
            first, second = open_session(small, TARGET), open_session(twin, TARGET)
            for sample in (feeds, *more):
                expected = second.run(sample)
                for name, found in first.run(sample).items():
                    size = float(np.abs(expected[name]).max())
                    assert size > 1e-3, f"{name} says nothing: it is zero"
                    assert np.abs(found - expected[name]).max() <= 1e-5 * size + 1e-6, (name, seed)
            again = load(small)
            analyse(again, observed_shapes(again, feeds, TARGET, self.folder))
        assert sum(small_sizes(small)) < sum(small_sizes(self.folder / "m.onnx"))


def small_sizes(path: Path) -> list[int]:
    """Elements of each initializer."""
    return [int(np.prod(t.dims)) for t in onnx.load(path).graph.initializer]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
