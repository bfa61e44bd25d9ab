from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.cli.command_line import Outcome, latency
from tests.pruning.test_depth import mlp_blocks
from tests.pruning.test_masks import network, samples

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("prune_masks", "prune_depth"):
        monkeypatch.setattr(f"onnxopt.commands.{module}.compare_latency", lambda *a, **o: latency("faster"))


@pytest.fixture
def files(tmp_path: Path) -> list[object]:
    samples(tmp_path)
    return [network(tmp_path), "-o", tmp_path / "out.onnx", "--data", tmp_path / "data0.npz", "--threads", "1"]


def matrices(path: Path) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    return {name: array for name, array in found.items() if array.size > 500}


def test_sparsity_holds_in_the_file(invoke: Callable[..., Outcome], files: list[object], tmp_path: Path) -> None:
    outcome = invoke("--json", "prune", *files, "--sparsity", "0.6")
    assert outcome.code == 0, outcome
    data = outcome.document["data"]
    zeros = sum(int((array == 0).sum()) for array in matrices(tmp_path / "out.onnx").values())
    assert zeros == sum(layer["zeros"] for layer in data["layers"])
    assert data["sparsity"] == pytest.approx(0.6, abs=0.01)
    assert data["size"]["output"]["zlib_bytes"] < data["size"]["input"]["zlib_bytes"]
    assert {way["name"] for way in data["tried"]} == {"uniform", "by error", "mixed"}
    assert any("does not run sparse weights faster" in note["reason"] for note in outcome.document["notes"])


def test_pattern_holds_in_the_file(invoke: Callable[..., Outcome], files: list[object], tmp_path: Path) -> None:
    outcome = invoke("--json", "prune", *files, "--nm", "2:4")
    assert outcome.code == 0, outcome
    found = matrices(tmp_path / "out.onnx")
    convs = [array for array in found.values() if array.ndim == 4]
    assert len(convs) == 2
    for array in convs:
        assert ((array.transpose(0, 2, 3, 1).reshape(-1, 4) == 0).sum(axis=1) >= 2).all()


def test_over_the_budget(invoke: Callable[..., Outcome], files: list[object], tmp_path: Path) -> None:
    outcome = invoke("prune", *files, "--sparsity", "0.97", "--max-drop", "0")
    assert outcome.code == 1, outcome
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--sparsity", "1.0"], "--sparsity"),
        (["--sparsity", "0"], "--sparsity"),
        (["--nm", "4:2"], "--nm"),
        (["--nm", "2:4", "--sparsity", "0.5"], "more than one"),
        (["--nm", "2:4", "--latency", "0.5"], "more than one"),
        (["--drop-blocks", "1", "--macs", "0.5"], "more than one"),
    ],
)
def test_goals_that_make_no_sense(
    refused: Callable[..., Outcome], files: list[object], options: list[str], word: str
) -> None:
    refused(2, ["prune", *files, *options], word)


def test_nothing_to_mask(invoke: Callable[..., Outcome], files: list[object], tmp_path: Path) -> None:
    outcome = invoke("prune", *files, "--nm", "2:4", "--keep", "Conv", "--keep", "MatMul", "--keep", "Gemm")
    assert outcome.code == 4, outcome
    assert not (tmp_path / "out.onnx").exists()


def test_blocks_go(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    model, out = mlp_blocks(tmp_path, [0.6, 0.05, 0.8]), tmp_path / "out.onnx"
    common = ["prune", model, "-o", out, "--data", tmp_path / "data.npz", "--threads", "1"]
    outcome = invoke("--json", *common, "--drop-blocks", "1")
    assert outcome.code == 0, outcome
    assert outcome.document["data"]["dropped_blocks"] == ["add1"]
    assert len(onnx.load(out).graph.node) < len(onnx.load(model).graph.node)
    out.unlink()
    assert invoke(*common, "--drop-blocks", "9").code == 1
    assert not out.exists()


def test_no_blocks(invoke: Callable[..., Outcome], files: list[object]) -> None:
    assert invoke("prune", *files, "--drop-blocks", "1").code == 4
