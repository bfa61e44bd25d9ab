"""``onnxopt doctor``: what it says, and what it survives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

from onnxopt.run.target import PROVIDERS
from tests.cli.command_line import REPOSITORY, Outcome
from tests.cli.sample_models import CUSTOM, parsed, write

CRASH = """
import os, signal, sys
if "onnxopt.measurement.worker" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_the_machine_is_examined(invoke: Callable[..., Outcome]) -> None:
    outcome = invoke("--json", "doctor", "--threads", 1)
    data = outcome.document["data"]
    assert outcome.code == 0, outcome
    installed = [p.short for p in PROVIDERS if p.name in ort.get_available_providers()]
    assert [row["provider"] for row in data["providers"]] == installed
    assert next(row for row in data["providers"] if row["provider"] == "cpu")["runs"]
    assert data["environment"]["onnxruntime"] == ort.__version__
    assert data["environment"]["threads"] == 1
    assert data["environment"]["spinning_because"].startswith("off: one thread")
    assert 0 <= data["environment"]["busy_share"] <= 1
    assert data["noise"]["spread"] >= 0
    assert data["noise"]["finds"][0] > data["noise"]["finds"][1], "more processes find smaller changes"
    assert data["noise"]["comparison"]["processes"] == 3
    assert data["model"] is None
    table = next(t for t in outcome.document["tables"] if t["title"].startswith("Providers"))
    assert [row[0] for row in table["rows"]] == [p.short for p in PROVIDERS], "what is not installed is listed as well"


def test_a_model_is_tried_on_each_provider(invoke: Callable[..., Outcome], cnn_model: Path) -> None:
    outcome = invoke("--json", "doctor", cnn_model)
    document = outcome.document
    assert outcome.code == 0, outcome
    assert next(row for row in document["data"]["model"] if row["provider"] == "cpu")["runs"]
    assert "cnn.onnx runs on cpu" in document["verdict"]["reason"]
    assert document["data"]["noise"]["model"] == "cnn.onnx"


def test_a_model_that_runs_nowhere_fails(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = invoke("doctor", write(parsed(CUSTOM), tmp_path / "custom.onnx"))
    assert outcome.code == 1
    assert outcome.out.startswith("FAIL custom.onnx runs on none of cpu")
    assert "Wobble" in outcome.out


def test_what_is_no_model_is_refused(refused: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    refused(3, ["doctor", tmp_path / "broken.onnx"], "broken.onnx")
    refused(3, ["doctor", tmp_path / "absent.onnx"], "absent.onnx")


def test_a_crash_is_a_row_and_not_the_end(shell: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    outcome = shell("doctor", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert outcome.code == 1, outcome
    assert outcome.out.startswith("FAIL no provider")
    assert "killed by SIGSEGV" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err


def test_two_onnxruntime_packages_are_a_conflict(shell: Callable[..., Outcome], tmp_path: Path) -> None:
    info = tmp_path / "onnxruntime_gpu-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.0\n")
    (info / "RECORD").write_text("onnxruntime/__init__.py,,\n")
    outcome = shell("--json", "doctor", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert outcome.code == 0, outcome
    assert "onnxruntime-gpu" in outcome.document["data"]["runtime_packages"]
    note = next(n for n in outcome.document["notes"] if n["verdict"] == "conflict")
    assert "onnxruntime-gpu 1.0" in note["reason"]
    assert "pip uninstall" in note["reason"]
