"""Convs that become two of lower rank: what they compute, what they cost, how they are fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxopt.core.cost import cost
from onnxopt.core.io import load, save
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.passes.base import Context
from onnxopt.pruning.costs import macs_costs, params_costs
from onnxopt.pruning.factors import Factor, factors, separated, split
from onnxopt.pruning.layers import layers
from onnxopt.pruning.pruner import Pruner, open_pruner
from onnxopt.pruning.repair import with_biases
from onnxopt.pruning.ridge import Bounds, Vectors
from onnxopt.pruning.structure import Structure, analyse
from onnxopt.run.session import open_session
from onnxopt.run.tap import observed_shapes
from tests.pruning.conftest import TARGET, Bench
from tests.pruning.feeds import image

WINDOWS = {
    "plain": "",
    "strides": "strides = [2, 1]",
    "pads": "pads = [1, 2, 0, 1]",
    "dilations": "dilations = [2, 1], pads = [2, 1, 2, 1]",
    "same": 'auto_pad = "SAME_UPPER", strides = [2, 2]',
    "lower": 'auto_pad = "SAME_LOWER", strides = [1, 2]',
    "valid": 'auto_pad = "VALID"',
    "all": "strides = [2, 2], pads = [2, 1, 1, 2], dilations = [1, 2], group = 1, kernel_shape = [3, 3]",
}
NET = """
net (float[N, 3, 12, 12] x) => (float[N, 5, 6, 6] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, wa, ba)
  b = Relu(a)
  c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, wc)
  d = Relu(c)
  y = Conv (d, wy)
}
"""


def outputs(model: Model, feeds: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    save(model, folder / "run.onnx")
    return np.asarray(open_session(folder / "run.onnx", TARGET).run(feeds, ["y"])["y"])


def opened(model: Model, feeds: dict[str, np.ndarray], folder: Path) -> tuple[Model, Structure, tuple[Factor, ...]]:
    shapes = observed_shapes(model, feeds, TARGET, folder)
    full = with_biases(model)
    structure = analyse(full, shapes)
    return full, structure, factors(layers(full.graph, structure), shapes, ())


@pytest.mark.parametrize("window", WINDOWS)
def test_two_of_full_rank_are_the_one(bench: Bench, window: str) -> None:
    attributes = f"<{WINDOWS[window]}>" if WINDOWS[window] else ""
    model = bench.build(f"net (float[N, 4, 13, 11] x) => (float[N, 6, H, W] y) {{ y = Conv {attributes} (x, w, b) }}")
    model = bench.weights(model, w=(6, 4, 3, 3), b=(6,))
    feeds = {"x": bench.rng.standard_normal((2, 4, 13, 11)).astype(np.float32)}
    two = split(model, {"w": 99})
    assert [node.op_type for node in two.graph] == ["Conv", "Conv"] and "w" not in two.graph.initializers
    np.testing.assert_allclose(outputs(two, feeds, bench.folder), outputs(model, feeds, bench.folder), atol=2e-5)


def test_only_whole_windows_of_one_group_are_found(bench: Bench) -> None:
    model = bench.build(
        """net (float[N, 8, 9, 9] x) => (float[N, 8, H, W] y) {
          a = Conv (x, w1)
          b = Conv <group = 2> (a, w2)
          c = Conv <group = 8> (b, w3)
          d = Conv (c, w4)
          e = Conv (d, shared)
          f = Conv (e, shared)
          y = Conv (f, w5)
        }"""
    )
    shapes = {"w1": (8, 8, 1, 1), "w2": (8, 4, 2, 2), "w3": (8, 1, 2, 2), "w4": (8, 8, 1, 3)}
    model = bench.weights(model, **shapes, shared=(8, 8, 1, 1), w5=(8, 8, 2, 2))
    _, _, found = opened(model, image(channels=8, size=9), bench.folder)
    assert [factor.weight for factor in found] == ["w5"]


def test_costs_are_those_of_the_model_that_is_made(bench: Bench) -> None:
    model = bench.weights(bench.build(NET), wa=(16, 3, 3, 3), ba=(16,), wc=(24, 16, 3, 3), wy=(5, 24, 1, 1))
    feeds = {"x": bench.rng.standard_normal((1, 3, 12, 12)).astype(np.float32)}
    pruner = opened_pruner(model, feeds, bench.folder)
    macs = macs_costs(pruner.model, pruner.structure, pruner.shapes, pruner.factors)
    params = params_costs(pruner.structure, pruner.factors)
    known = cost(pruner.model, pruner.shapes)
    rest = known.params - params(pruner.choices.full)[0]
    assert [factor.weight for factor in pruner.factors] == ["wa", "wc"]
    for seed in range(6):
        kept = np.array([np.random.default_rng(seed).choice(c) for c in pruner.choices.choices])
        path = pruner.bare(kept, "made")
        made = load(path)
        found = cost(made, observed_shapes(made, feeds, TARGET, bench.folder))
        assert macs(kept)[0] == pytest.approx(found.total_macs), kept
        assert params(kept)[0] + rest == pytest.approx(found.params), kept


def opened_pruner(model: Model, feeds: dict[str, np.ndarray], folder: Path) -> Pruner:
    samples = [Sample({"x": image(channels=3, size=12)["x"] * (1 + i)}) for i in range(8)]
    ctx = Context(folder, Dataset("made", samples.__getitem__, tuple(range(8)), "0", False), TARGET)
    shapes = observed_shapes(model, feeds, TARGET, folder)
    return open_pruner(model, folder / "m.onnx", shapes, ctx, method="l2", block=4, factor=True)


@pytest.mark.parametrize("rows", [36, 27])  # of a window of three by three: four channels, and three
def test_the_fit_to_data_beats_that_to_the_weights(bench: Bench, rows: int) -> None:
    """Inputs whose channels are alike, and an output that a Relu cuts off."""
    rng, model = bench.rng, bench.weights(bench.build(NET), wa=(4, 3, 3, 3), ba=(4,), wc=(8, 4, 3, 3), wy=(5, 8, 1, 1))
    feeds = {"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)}
    _, _, found = opened(model, feeds, bench.folder)
    reads = found[1].layer.reads
    weight = rng.standard_normal((1, rows, 8))
    vectors = Vectors(1, rows, 8, 2000, Bounds(0.0, np.inf))
    x = (rng.standard_normal((rows, 6)) @ rng.standard_normal((6, 2000)) + 0.1 * rng.standard_normal((rows, 2000)))[
        None
    ]
    y = np.matmul(weight.transpose(0, 2, 1), x)
    vectors.update(x[:, :, :1600].astype(np.float32), y[:, :, :1600].astype(np.float32), 0.0, judges=False)
    vectors.update(x[:, :, 1600:].astype(np.float32), y[:, :, 1600:].astype(np.float32), 0.0, judges=True)
    fitted, bias = separated(vectors, weight, np.zeros((1, 8)), reads, 5)
    assert bias is not None
    unfolded = fitted[0].reshape(rows // 3, 3, 8).transpose(1, 2, 0).reshape(24, -1)
    assert np.linalg.matrix_rank(unfolded, tol=1e-6) == 5
    full = weight[0].reshape(rows // 3, 3, 8).transpose(1, 2, 0).reshape(24, -1)
    left, sizes, right = np.linalg.svd(full, full_matrices=False)
    plain = ((left[:, :5] * sizes[:5]) @ right[:5]).reshape(3, 8, -1).transpose(2, 0, 1).reshape(1, rows, 8)
    assert vectors.error(fitted, bias) < 0.3 * vectors.error(plain, np.zeros((1, 8)))
