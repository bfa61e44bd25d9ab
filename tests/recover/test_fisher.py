"""Fisher information of units: against losses of the model with each unit's mask moved a little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("torch", reason="training needs torch")

from onnxopt.core.io import load
from onnxopt.core.query import input_specs
from onnxopt.data.sources import open_dataset
from onnxopt.passes.base import Context
from onnxopt.recover.fisher import Part, fisher
from onnxopt.run.session import open_session
from onnxopt.run.target import Target
from tests.cli.command_line import REPOSITORY

MNIST = REPOSITORY / "calibration_data" / "mnist"
STEP = 1e-2


def test_scores_are_the_mean_square_of_the_slope_of_the_loss_along_the_mask(tmp_path: Path) -> None:
    path = MNIST / "mnist_cnn.onnx"
    model = load(path)
    data = open_dataset(str(MNIST / "calibration.npz"), input_specs(model)).take(range(6))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    names = [value.name for value in conv.inputs[1:3] if value is not None and value.name]
    count = conv.inputs[1].shape.numpy()[0]
    parts = [Part(name, 0, np.arange(count)) for name in names]
    ctx = Context(tmp_path, data, Target(threads=1))
    found = fisher(model, [(count, parts)], data, model.graph.outputs[0].name or "", ctx)[0]
    for unit in (0, 3):
        slopes = []
        for sample in data:
            up, down = (_loss(path, names, unit, 1 + s, sample, tmp_path) for s in (STEP, -STEP))
            slopes.append((up - down) / (2 * STEP))
        assert found[unit] == pytest.approx(np.mean(np.square(slopes)) / 2, rel=0.05, abs=1e-9)


def _loss(path: Path, names: list[str], unit: int, mask: float, sample, folder: Path) -> float:
    """Cross entropy with the unit multiplied by ``mask`` behind the layer that makes it."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            array = numpy_helper.to_array(tensor).copy()
            array[unit] *= mask
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, folder / "moved.onnx")
    logits = open_session(folder / "moved.onnx", Target(threads=1)).run(sample.feeds)
    scores = np.asarray(next(iter(logits.values())), np.float64).reshape(-1)
    return float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[int(np.ravel(sample.labels)[0])])
