"""Keras models by the command line, each call in a process of its own, as a backend cannot be changed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

HAS_KERAS = find_spec("keras") is not None
needs_keras = pytest.mark.skipif(not HAS_KERAS, reason="keras is not installed (pip install 'onnxopt[keras]')")
MAKE = """
import keras, numpy as np, sys
from keras import layers
folder = sys.argv[1]
model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(),
                          layers.Flatten(), layers.Dense(3, activation="softmax", name="kind")])
model.save(folder + "/cnn.keras")
x = np.random.default_rng(0).standard_normal((5, 8, 8, 1)).astype("float32")
np.savez(folder + "/expected.npz", x=x, y=keras.ops.convert_to_numpy(model(x)))
keras.Sequential([keras.Input((4,)), layers.Lambda(lambda t: 2 * t)]).save(folder + "/lambda.keras")
"""


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if "KERAS_BACKEND" not in environment and find_spec("tensorflow") is None:
        environment["KERAS_BACKEND"] = "torch"
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    made = python("-c", MAKE, folder)
    assert made.returncode == 0, made.stderr
    return folder


@needs_keras
def test_a_model_becomes_onnx_that_computes_the_same(models: Path, tmp_path: Path) -> None:
    ran = python("-m", "onnxopt", "-q", "export", models / "cnn.keras", "-o", tmp_path / "m.onnx")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    known = np.load(models / "expected.npz")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 8, 8, 1]
    found = session.run(None, {session.get_inputs()[0].name: known["x"]})[0]
    np.testing.assert_allclose(found, known["y"], atol=1e-5)


@needs_keras
def test_code_in_a_lambda_layer_needs_trust(models: Path, tmp_path: Path) -> None:
    ran = python("-m", "onnxopt", "export", models / "lambda.keras", "-o", tmp_path / "m.onnx")
    assert ran.returncode == 3 and "--trust" in ran.stderr and "Traceback" not in ran.stderr


@needs_keras
def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.keras").write_bytes(b"no archive")
    ran = python("-m", "onnxopt", "export", tmp_path / "a.keras", "-o", tmp_path / "m.onnx")
    assert ran.returncode == 3 and "cannot read" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.skipif(HAS_KERAS, reason="keras is installed")
def test_without_keras_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.keras").write_bytes(b"")
    ran = python("-m", "onnxopt", "export", tmp_path / "a.keras", "-o", tmp_path / "m.onnx")
    assert ran.returncode == 3 and "onnxopt[keras]" in ran.stderr and "Traceback" not in ran.stderr
