"""The command line as a user meets it: exit code, stdout, stderr, and what is left in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxopt.cli.main import run
from onnxopt.measurement.measure import LatencyComparison, Side
from onnxopt.measurement.stats import Decision
from tests.cli.sample_models import cnn, cnn_data, mlp, mlp_data, write

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line gave back."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; anything beside it fails the test."""
        return json.loads(self.out)


def assert_explained(outcome: Outcome, code: int, *words: str) -> None:
    """The error has its exit code and the three parts, names ``words``, and shows no traceback."""
    assert outcome.code == code, outcome
    what, where, fix = outcome.err.index("error: "), outcome.err.index("\n  where: "), outcome.err.index("what to do: ")
    assert what < where < fix, outcome.err
    assert len(outcome.err[what + 7 : where].strip()) > 10, outcome.err
    assert len(outcome.err[fix + 12 :].strip()) > 5, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert "internal error" not in outcome.err, outcome.err
    for word in words:
        assert word in outcome.err, f"{word!r} is not in:\n{outcome.err}"


def contents(folder: Path) -> dict[str, str]:
    """Every file below ``folder``, hidden ones included, with the hash of its bytes."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


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


def latency(decision: Decision) -> LatencyComparison:
    """A measurement that came out so."""
    side = Side(p25_ms=1.0, p50_ms=1.0, load_ms=1.0, first_run_ms=1.0, peak_rss_mb=1.0)
    return LatencyComparison(decision, 0.5, 0.5, 0.4, 0.6, 0.1, 0.03, 5, 50, False, side, side, (0.5,))


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


def environment(**changes: str) -> dict[str, str]:
    """The environment of a subprocess that imports this very package."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **changes}


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
