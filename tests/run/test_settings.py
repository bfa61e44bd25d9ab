"""Settings beside a model: applied wherever it is opened, refused when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxopt
from onnxopt.errors import ModelError
from onnxopt.measurement.profile import profile
from onnxopt.run.session import open_session
from onnxopt.run.settings import NO_SETTINGS, SessionSettings, read_settings, settings_path, write_settings
from onnxopt.run.target import Target

FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 8, 16)).astype(np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Add and LayerNormalization, which ONNX Runtime fuses into SkipLayerNormalization."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[2,8,16] x) => (float[2,8,16] y)
        <float[16] g1 = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float[16] b1 = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
        { s = Sigmoid(x) a = Add(s, x) y = LayerNormalization <axis = -1> (a, g1, b1) }"""
    onnx.save(onnx.parser.parse_model(text), path := tmp_path / "m.onnx")
    return path


def kernels(path: Path) -> set[str]:
    return {time.op for time in profile(path, [FEEDS], Target(threads=1)).times}


def test_an_optimizer_is_left_out_in_every_session(model: Path) -> None:
    assert "SkipLayerNormalization" in kernels(model)
    write_settings(model, SessionSettings("cpu", ("SkipLayerNormFusion",)))
    assert "LayerNormalization" in kernels(model)
    assert open_session(model, Target(threads=1)).settings.disabled_optimizers == ("SkipLayerNormFusion",)
    session = onnxopt.load_session(model, Target(threads=1))
    assert session.run(None, FEEDS)[0].shape == (2, 8, 16)


def test_settings_of_another_provider_are_not_applied(model: Path) -> None:
    write_settings(model, SessionSettings("cuda", ("SkipLayerNormFusion",)))
    assert open_session(model, Target(threads=1)).settings == NO_SETTINGS


def test_a_setting_that_the_runtime_does_not_take_is_named(model: Path) -> None:
    write_settings(model, SessionSettings("cpu", (), {"": "1"}))
    with pytest.raises(ModelError, match=r"session setting ''[\s\S]*session\.json"):
        open_session(model, Target(threads=1))


def test_no_settings_remove_those_of_an_earlier_model(model: Path) -> None:
    write_settings(model, SessionSettings("cpu", (), {"session.intra_op.allow_spinning": "0"}))
    assert read_settings(model).session_config == {"session.intra_op.allow_spinning": "0"}
    write_settings(model, NO_SETTINGS)
    assert not settings_path(model).exists()
    assert read_settings(model) == NO_SETTINGS


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"schema": 9}',
        json.dumps({"schema": 1, "provider": "cpu", "disabled_optimizers": 1, "session_config": {}}),
        json.dumps({"schema": 1, "provider": 3, "disabled_optimizers": [], "session_config": {}}),
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_refused_with_what_to_do(model: Path, text: str) -> None:
    settings_path(model).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="session settings") as caught:
        open_session(model, Target())
    assert "remove the file" in caught.value.fix
