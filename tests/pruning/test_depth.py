from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.core.io import load
from onnxopt.core.query import input_specs
from onnxopt.core.shapes import infer_shapes
from onnxopt.data.sources import open_dataset
from onnxopt.evaluate.compare import Scorer
from onnxopt.passes.base import Context
from onnxopt.pruning.branches import blocks, choose, influences
from onnxopt.pruning.depth import drop
from onnxopt.pruning.layers import layers
from onnxopt.pruning.plan import Menu
from onnxopt.pruning.pruner import Pruned, Pruner
from onnxopt.pruning.structure import analyse
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

TARGET = Target(threads=1)
WIDTH = 16


def mlp_blocks(folder: Path, strengths: list[float], *, post_norm: bool = False) -> Path:
    """Residual MLP branches of different strength, with norms in front of them or behind them, and a head."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(np.ones(WIDTH, np.float32), "one")]
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, rows: int, columns: int, scale: float) -> str:
        array = (rng.standard_normal((rows, columns)) * scale / np.sqrt(rows)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    stream = add("MatMul", ["x", weight("stem", WIDTH, WIDTH, 1)], "s")
    if post_norm:
        stream = add("LayerNormalization", [stream, "one"], "sn", axis=-1)
    for i, strength in enumerate(strengths):
        inner = stream if post_norm else add("LayerNormalization", [stream, "one"], f"n{i}", axis=-1)
        inner = add("MatMul", [inner, weight(f"u{i}", WIDTH, 32, 1)], f"h{i}")
        cube = add("Mul", [inner, inner], f"c{i}")
        inner = add("Add", [inner, cube], f"no-block{i}")  # x + f(x) without weights
        inner = add("MatMul", [add("Relu", [inner], f"r{i}"), weight(f"d{i}", 32, WIDTH, strength)], f"o{i}")
        stream = add("Add", [stream, inner], f"add{i}")
        if post_norm:
            stream = add("LayerNormalization", [stream, "one"], f"ln{i}", axis=-1)
    add("MatMul", [stream, weight("head", WIDTH, 8, 1)], "y")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", WIDTH])],
        [value("y", TensorProto.FLOAT, ["n", 8])],
        weights,
    )
    path = folder / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    np.savez(folder / "data.npz", x=rng.standard_normal((128, WIDTH)).astype(np.float32))
    return path


def opened(path: Path) -> Pruner:
    model = load(path)
    infer_shapes(model)
    data = open_dataset(str(path.parent / "data.npz"), input_specs(model))
    ctx = Context(path.parent, data, TARGET)
    shapes = observed_shapes(model, data[0].feeds, TARGET, path.parent)
    structure = analyse(model, shapes)
    return Pruner(model, path, shapes, structure, layers(model.graph, structure), (), Menu((), ()), ctx)


def dropped(pruner: Pruner, count: int) -> Pruned:
    assert pruner.ctx.data is not None
    order = influences(pruner.model, blocks(pruner.model, pruner.shapes), pruner.ctx)
    scorer = Scorer(pruner.reference, pruner.ctx.data, TARGET)
    feeds = [pruner.ctx.data[i].feeds for i in range(4)]
    return drop(pruner, choose(order, count), "short", scorer, feeds)


@pytest.mark.parametrize("post_norm", [False, True])
def test_the_weakest_blocks_go_and_the_rest_is_repaired(tmp_path: Path, post_norm: bool) -> None:
    pruner = opened(mlp_blocks(tmp_path, [0.6, 0.05, 0.8, 0.1], post_norm=post_norm))
    found = blocks(pruner.model, pruner.shapes)
    assert [block.name for block in found] == ["add0", "add1", "add2", "add3"]
    made = dropped(pruner, 2)
    assert set(made.dropped) == {"add1", "add3"}
    names = {node.name for node in made.model.graph}
    assert not {"add1", "add3", "h1", "h3"} & names
    assert {"add0", "add2", "h0", "h2"} <= names
    assert ("ln1" in names) is False
    assert not any(node.op_type == "Where" for node in made.model.graph)
    onnx.checker.check_model(onnx.load(made.path), full_check=True)


def test_repair_helps(tmp_path: Path) -> None:
    pruner = opened(mlp_blocks(tmp_path, [0.6, 0.5, 0.8]))
    made = dropped(pruner, 1)
    assert made.repaired.solved > 0, "the repaired form was not better"


def test_neighbouring_blocks_go_together(tmp_path: Path) -> None:
    pruner = opened(mlp_blocks(tmp_path, [0.5, 0.1, 0.1, 0.9], post_norm=True))
    made = dropped(pruner, 2)
    assert set(made.dropped) == {"add1", "add2"}


def test_influence_grows_with_the_branch(tmp_path: Path) -> None:
    pruner = opened(mlp_blocks(tmp_path, [0.6, 0.05, 0.2]))
    order = influences(pruner.model, blocks(pruner.model, pruner.shapes), pruner.ctx)
    assert [i.block.name for i in order] == ["add1", "add2", "add0"]
    assert 0 <= order[0].value < order[-1].value < 2
