"""The command line as a user meets it: exit code, stdout, stderr, and what is left in the folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from onnxopt.cli.main import run
from tests.cli.command_line import Outcome, assert_explained, contents, environment, latency
from tests.cli.sample_models import cnn, cnn_data, mlp, mlp_data, write


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
    for module in ("onnxopt.quantization.search", "onnxopt.commands.optimize"):
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
