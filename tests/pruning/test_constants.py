"""Weights in Constant nodes are repaired as those in initializers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxopt.core.io import load
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.evaluate.compare import Scorer
from onnxopt.passes.base import Context
from onnxopt.pruning.pruner import Pruned, open_pruner
from onnxopt.run.tap import observed_shapes
from tests.pruning.conftest import TARGET, Bench

TEXT = """
net (float[N, 8] x) => (float[N, 5] y) {
  a = Gemm(x, wa, ba)
  b = Relu(a)
  c = Gemm(b, wb, bb)
  d = Relu(c)
  y = Gemm(d, wy, by)
}
"""


def pruned(path: Path, folder: Path) -> Pruned:
    folder.mkdir()
    rng = np.random.default_rng(3)
    samples = [Sample({"x": rng.standard_normal((4, 8)).astype(np.float32)}) for _ in range(40)]
    data = Dataset("made", samples.__getitem__, tuple(range(40)), "0", False)
    model = load(path)
    ctx = Context(folder, data, TARGET)
    shapes = observed_shapes(model, samples[0].feeds, TARGET, folder)
    pruner = open_pruner(model, path, shapes, ctx, method="obs", block=4)
    scorer = Scorer(path, data, TARGET, metric="cosine")
    return pruner.make("half", pruner.choices.near(pruner.choices.full / 2), scorer, [s.feeds for s in samples[:4]])


@pytest.fixture
def both(bench: Bench, tmp_path: Path) -> tuple[Path, Path]:
    """The same model with its weights in initializers, and in Constant nodes."""
    bench.weights(bench.build(TEXT), wa=(8, 16), ba=(16,), wb=(16, 12), bb=(12,), wy=(12, 5), by=(5,))
    proto = onnx.load(bench.folder / "m.onnx")
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    nodes += proto.graph.node
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, tmp_path / "nodes.onnx")
    return bench.folder / "m.onnx", tmp_path / "nodes.onnx"


def test_the_place_of_the_weights_makes_no_difference(both: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (pruned(path, tmp_path / name) for path, name in zip(both, "ab", strict=True))
    assert first.repaired.solved == second.repaired.solved == 2
    assert second.sqnr_db == pytest.approx(first.sqnr_db, abs=0.1)
