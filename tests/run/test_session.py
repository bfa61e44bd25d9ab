from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt.errors import DataError, ModelError, ProviderError, UsageError
from onnxopt.run.session import open_session
from onnxopt.run.target import Target, allowed_cores

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_an_unknown_provider_names_the_nearest():
    with pytest.raises(UsageError, match="'cuda'"):
        Target(provider="cdua")


@pytest.mark.parametrize("name", ["coreml", "CoreMLExecutionProvider"])
def test_a_provider_that_is_not_installed_names_its_package(path, name):
    with pytest.raises(ProviderError, match="macOS"):
        open_session(path, Target(provider=name))


def test_wrong_feeds_say_what_they_were(path):
    session = open_session(path, Target(threads=1))
    with pytest.raises(DataError, match=r"x float32\[3, 4\]"):
        session.run({"x": np.zeros((3, 4), np.float32)})


def test_a_custom_operator_is_named(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> g (float[2] x) => (float[2] y) {
        y = my.domain.Magic(x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "c.onnx")
    with pytest.raises(ModelError, match="Magic"):
        open_session(tmp_path / "c.onnx", Target())


def test_threads_default_to_the_allowed_cores():
    assert Target().threads == allowed_cores()
    with pytest.raises(UsageError):
        Target(threads=0)
