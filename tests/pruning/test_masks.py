from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.core.io import load, save
from onnxopt.core.query import Model, input_specs
from onnxopt.core.shapes import infer_shapes
from onnxopt.data.sources import open_dataset
from onnxopt.errors import UsageError
from onnxopt.passes.base import Context
from onnxopt.pruning.layers import layers
from onnxopt.pruning.masks import Pattern, costs, eliminate, holds, read_pattern, refit
from onnxopt.pruning.sparse import channel_order, maskable, shares_by_error, sparsified
from onnxopt.pruning.structure import analyse
from onnxopt.pruning.surgery import numbers, with_values
from onnxopt.run.session import open_session
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

TARGET = Target(threads=1)


def moments(rows: int, seed: int = 0) -> np.ndarray:
    mixed = np.random.default_rng(seed).standard_normal((rows, rows)) + 1.5
    return mixed @ mixed.T / rows


def error(weight: np.ndarray, other: np.ndarray, h: np.ndarray) -> float:
    return float(np.trace((weight - other).T @ h @ (weight - other)))


@pytest.mark.parametrize("rows", [24, 300])
def test_share_is_met_and_beats_magnitude(rows: int) -> None:
    weight, h = np.random.default_rng(1).standard_normal((rows, 16)), moments(rows)
    found, keep = eliminate(weight, h, 0.5)
    assert (found[~keep] == 0).all()
    assert np.mean(~keep) == pytest.approx(0.5, abs=0.01)
    plain = np.where(np.abs(weight) > np.median(np.abs(weight)), weight, 0)
    assert error(found, weight, h) < error(plain, weight, h)


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(1, 3), Pattern(6, 8)])
def test_pattern_holds(pattern: Pattern) -> None:
    rows = pattern.size * 50
    weight = np.random.default_rng(1).standard_normal((rows, 8))
    found, _ = eliminate(weight, moments(rows), pattern)
    assert holds(found[None], pattern)
    assert not holds(weight[None], pattern)


def test_costs_are_what_removing_one_weight_costs() -> None:
    weight, h = np.random.default_rng(2).standard_normal((6, 1)), moments(6) + np.eye(6)
    found = costs(weight, h)
    for row in range(6):
        rest = [i for i in range(6) if i != row]
        best = weight[row, 0] ** 2 * (h[row, row] - h[row, rest] @ np.linalg.solve(h[np.ix_(rest, rest)], h[rest, row]))
        assert found[row, 0] == pytest.approx(best, rel=0.3)  # the damping
        assert found[row, 0] >= best


def test_refit_solves_each_column_on_its_own_mask() -> None:
    rng = np.random.default_rng(3)
    h, cross, keep = moments(12) + np.eye(12), rng.standard_normal((12, 5)), rng.random((12, 5)) < 0.5
    found = refit(h, cross, np.zeros((12, 5)), keep, 0.0)
    for column in range(5):
        own = np.flatnonzero(keep[:, column])
        exact = np.linalg.solve(h[np.ix_(own, own)], cross[own, column])
        np.testing.assert_allclose(found[own, column], exact, atol=1e-2)
    assert (found[~keep] == 0).all()


@pytest.mark.parametrize("text", ["2:4", "1:4"])
def test_patterns_are_read(text: str) -> None:
    assert str(read_pattern(text)) == text


@pytest.mark.parametrize("text", ["4:4", "0:4", "5:4", "2", "2:4:8", "a:b", ""])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_pattern(text)


def network(folder: Path) -> Path:
    """Conv, grouped Conv, depthwise Conv, Gemm, MatMul with random weights."""
    rng = np.random.default_rng(0)
    shapes = {"a": (16, 8, 3, 3), "ab": (16,), "g": (32, 8, 3, 3), "gb": (32,), "d": (32, 1, 3, 3), "db": (32,)}
    shapes |= {"m": (32, 48), "w": (48, 16), "wb": (16,)}
    scale = {name: 1 / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[0]) for name, shape in shapes.items()}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) * scale[n] * 1.5).astype(np.float32), n)
        for n, s in shapes.items()
    ]
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "a", "ab"], ["1"], "conv", **pads),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "g", "gb"], ["3"], "grouped", group=2, **pads),
        helper.make_node("Relu", ["3"], ["4"]),
        helper.make_node("Conv", ["4", "d", "db"], ["5"], "depthwise", group=32, **pads),
        helper.make_node("Relu", ["5"], ["6"]),
        helper.make_node("GlobalAveragePool", ["6"], ["7"]),
        helper.make_node("Flatten", ["7"], ["8"]),
        helper.make_node("MatMul", ["8", "m"], ["9"], "matmul"),
        helper.make_node("Relu", ["9"], ["10"]),
        helper.make_node("Gemm", ["10", "w", "wb"], ["y"], "gemm"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 8, 8, 8])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
        weights,
    )
    path = folder / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def typed(folder: Path) -> Model:
    model = load(folder / "model.onnx")
    infer_shapes(model)
    return model


def samples(folder: Path, count: int = 32, seed: int = 0) -> Context:
    rng = np.random.default_rng(seed)
    data = (rng.standard_normal((count, 8, 8, 8)) + rng.standard_normal((count, 8, 1, 1))).astype(np.float32)
    path = folder / f"data{seed}.npz"
    np.savez(path, x=data)

    return Context(folder, open_dataset(str(path), input_specs(load(network(folder)))), TARGET)


def outputs(model: Model, ctx: Context, name: str) -> np.ndarray:
    path = ctx.workdir / name
    save(model, path)
    session = open_session(path, TARGET)
    assert ctx.data is not None
    return np.concatenate([np.asarray(session.run(s.feeds)["y"]) for s in ctx.data])


def sparse(folder: Path, wanted: float | Pattern) -> tuple[Model, Mapping[str, np.ndarray], Context]:
    ctx = samples(folder)
    model = typed(folder)
    assert ctx.data is not None
    shapes = observed_shapes(model, ctx.data[0].feeds, TARGET, folder)
    taken, notes = maskable(model, layers(model.graph, analyse(model, shapes)), None)
    assert [layer.name for layer in taken] == ["conv", "grouped", "matmul", "gemm"]
    assert [note.node for note in notes] == ["depthwise"]
    weights, count = sparsified(model, taken, dict.fromkeys((t.name for t in taken), wanted), shapes, ctx)
    assert count == 32
    return model, weights, ctx


def test_the_repaired_model_is_nearer_than_the_one_with_the_same_zeros(tmp_path: Path) -> None:
    model, weights, _ = sparse(tmp_path, 0.7)
    zeroed = {}
    for name, array in weights.items():
        if array.ndim > 1:
            assert np.mean(array == 0) == pytest.approx(0.7, abs=0.01)
            zeroed[name] = np.where(array == 0, 0, numbers(model.graph.initializers[name])).astype(np.float32)
    judge = samples(tmp_path, seed=1)
    truth = outputs(model, judge, "truth.onnx")
    with_zeros = outputs(with_values(model, zeroed), judge, "zeroed.onnx") - truth
    repaired = outputs(with_values(model, weights), judge, "repaired.onnx") - truth
    assert (repaired**2).sum() < 0.5 * (with_zeros**2).sum()


def test_pattern_lies_along_the_input_channels_of_one_tap(tmp_path: Path) -> None:
    _, weights, _ = sparse(tmp_path, Pattern(2, 4))
    for name in ("a", "g"):
        taps = weights[name].transpose(0, 2, 3, 1).reshape(-1, 4)
        assert ((taps == 0).sum(axis=1) >= 2).all(), name
    for name in ("m", "w"):
        assert ((weights[name].T.reshape(-1, 4) == 0).sum(axis=1) >= 2).all(), name


def test_shares_by_error_keep_the_total(tmp_path: Path) -> None:
    ctx = samples(tmp_path)
    model = typed(tmp_path)
    assert ctx.data is not None
    shapes = observed_shapes(model, ctx.data[0].feeds, TARGET, tmp_path)
    taken, _ = maskable(model, layers(model.graph, analyse(model, shapes)), None)
    shares = shares_by_error(model, taken, 0.8, ctx)
    sizes = {layer.name: numbers(layer.linear.weight).size for layer in taken}
    assert sum(shares[n] * sizes[n] for n in sizes) / sum(sizes.values()) == pytest.approx(0.8, abs=0.005)
    assert len({round(share, 3) for share in shares.values()}) > 1
    assert max(shares.values()) <= 0.981


def test_layers_whose_channels_do_not_divide_stay_dense(tmp_path: Path) -> None:
    ctx = samples(tmp_path)
    model = typed(tmp_path)
    assert ctx.data is not None
    shapes = observed_shapes(model, ctx.data[0].feeds, TARGET, tmp_path)
    found = layers(model.graph, analyse(model, shapes))
    taken, notes = maskable(model, found, Pattern(8, 16))
    assert [layer.name for layer in taken] == ["matmul", "gemm"]
    assert {"conv", "grouped"} <= {note.node for note in notes}
    assert sorted(channel_order(taken[0]).tolist()) == list(range(32))
