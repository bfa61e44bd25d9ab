"""Maps (a class for each pixel) and members with external data, against separate sessions by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt import Average, Source, Vote, Weighted, merge
from onnxopt.merging.ensemble import Fuse
from onnxopt.merging.strategies import Strategy
from tests.merging.models import from_text, net, samples
from tests.merging.test_equal import ONE, merged, run

SEGMENTER = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[{batch}, 3, 8, 8] x) => (float[{batch}, 4, 8, 8] y) {{
  a = Conv<pads = [1, 1, 1, 1]>(x, k, b)
  r = Relu(a)
  l = Conv(r, k2)
  y = Softmax<axis = 1>(l)
}}
"""


def segmenter(path: Path, seed: int, batch: int | str = "N") -> Path:
    rng = np.random.default_rng(seed)
    shapes = {"k": (6, 3, 3, 3), "b": (6,), "k2": (4, 6, 1, 1)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return from_text(path, SEGMENTER.format(batch=batch), **arrays)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def votes(parts: list[np.ndarray]) -> np.ndarray:
    return np.mean([np.moveaxis(np.eye(4)[p.argmax(axis=1)], -1, 1) for p in parts], axis=0)


@pytest.mark.parametrize("fuse", ["on", "off"])
@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("strategy", [Average(), Weighted((0.5, 0.25, 0.25)), Vote("hard")], ids=str)
def test_maps_are_combined_pixel_by_pixel(tmp_path: Path, strategy: Strategy, batch: int | str, fuse: Fuse) -> None:
    paths = [segmenter(tmp_path / f"{k}.onnx", k, batch) for k in range(3)]
    output = merged(paths, tmp_path, None, strategy, fuse=fuse)
    convolutions = sum(n.op_type == "Conv" for n in onnx.load(output).graph.node)
    assert convolutions == (2 if fuse == "on" else 6)
    for count in (1, 8):
        x = images(count, seed=count)
        parts = [run(p, x) for p in paths]
        match strategy:
            case Vote():
                wanted = votes(parts)
            case _:
                shares = strategy.weights if isinstance(strategy, Weighted) else (1 / 3,) * 3
                wanted = sum(w * p for w, p in zip(shares, parts, strict=True))
        assert np.abs(run(output, x) - wanted).max() < 1e-5


def test_weights_of_maps_are_fitted_on_their_pixels(tmp_path: Path) -> None:
    paths = [segmenter(tmp_path / f"{k}.onnx", k) for k in (0, 5)]
    x = images(12)
    np.savez(tmp_path / "d.npz", x=x, labels=run(paths[0], x).argmax(axis=1))
    report = merge(paths, None, Source(str(tmp_path / "d.npz")), strategy=Weighted(), target=ONE)
    first, second = report.data["fit"]["weights"]
    assert first > 4 * second


def test_members_with_external_data(tmp_path: Path) -> None:
    paths: list[Path] = []
    for k in (1, 2):
        (tmp_path / str(k)).mkdir()
        path = net(tmp_path / str(k) / "m.onnx", k)
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        paths.append(path)
    x = samples(8)
    wanted = np.mean([run(p, x) for p in paths], axis=0)
    for fuse in ("on", "off"):
        assert np.abs(run(merged(paths, tmp_path, None, Average(), fuse=fuse), x) - wanted).max() < 1e-5
