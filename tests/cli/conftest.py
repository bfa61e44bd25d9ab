"""The command line as a user meets it: exit code, stdout, stderr, and what is left in the folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxopt.cli.main import run
from tests.cli.command_line import Outcome, assert_explained, contents, environment, latency
from tests.cli.sample_models import FEATURES, cnn, cnn_data, mlp, mlp_data, normal, write


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(a) for a in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(invoke: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a command line that must fail with a good message and leave every file as it was."""

    def call(code: int, arguments: Sequence[object], *words: str) -> Outcome:
        before = contents(tmp_path)
        outcome = invoke(*arguments)
        assert_explained(outcome, code, *words)
        assert contents(tmp_path) == before, "a failed command changed files"
        return outcome

    return call


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency measurements that take no time and always find the candidate faster, for tests of everything else."""
    for module in ("onnxopt.quantization.search.candidates", "onnxopt.commands.optimize"):
        monkeypatch.setattr(f"{module}.compare_latency", lambda *args, **options: latency("faster"))


@pytest.fixture
def mlp_model(tmp_path: Path) -> Path:
    return write(mlp(), tmp_path / "mlp.onnx")


@pytest.fixture
def mlp_npz(tmp_path: Path) -> Path:
    return mlp_data(tmp_path / "mlp.npz")


@pytest.fixture
def cnn_model(tmp_path: Path) -> Path:
    return write(cnn(), tmp_path / "cnn.onnx")


@pytest.fixture
def cnn_npz(tmp_path: Path) -> Path:
    return cnn_data(tmp_path / "cnn.npz")


@pytest.fixture
def shell() -> Callable[..., Outcome]:
    """Runs a command line in a real process; ``before`` is shell code in front of it, ``after`` behind it."""

    def call(*arguments: object, before: str = "", after: str = "", **variables: str) -> Outcome:
        script = f'{before} "$0" -m onnxopt "$@" {after}'
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script, sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment(**variables),
            timeout=120,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def quantized(invoke: Callable[..., Outcome], tmp_path: Path, no_clock: None) -> Callable[..., Path]:
    """The INT8 form of a model, which must be written and run on the same inputs as the model."""

    def call(model: onnx.ModelProto, *options: object, feeds: dict[str, np.ndarray] | None = None) -> Path:
        path, output = write(model, tmp_path / "m.onnx"), tmp_path / "out.onnx"
        before = path.read_bytes()
        outcome = invoke("quantize", path, "-o", output, "--max-drop", 1, *options)
        assert outcome.code == 0, outcome
        assert path.read_bytes() == before
        onnx.checker.check_model(str(output))
        first, second = (ort.InferenceSession(p, providers=["CPUExecutionProvider"]) for p in (path, output))
        assert [i.name for i in first.get_inputs()] == [i.name for i in second.get_inputs()]
        feeds = {"x": normal(4, FEATURES)} if feeds is None else feeds
        for a, b in zip(first.run(None, feeds), second.run(None, feeds), strict=True):
            assert np.abs(a - b).max() < 0.1 * np.abs(a).max() + 1e-6
        return output

    return call
