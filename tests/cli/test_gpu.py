"""CUDA and TensorRT, where there is an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.accelerator_cases import MNIST, hardmax, needs
from tests.cli.command_line import Outcome
from tests.cli.sample_models import write

CUDA = needs("gpu", "CUDAExecutionProvider", "onnxruntime-gpu")
TENSORRT = needs("gpu", "TensorrtExecutionProvider", "onnxruntime-gpu with TensorRT")
EACH = pytest.mark.parametrize("provider", [pytest.param("cuda", marks=CUDA), pytest.param("tensorrt", marks=TENSORRT)])


@EACH
def test_the_classifier_runs_on_it(invoke: Callable[..., Outcome], provider: str) -> None:
    model, data = MNIST / "mnist_cnn.onnx", MNIST / "test.npz"
    outcome = invoke("--json", "bench", model, "--data", data, "--provider", provider)
    assert outcome.code == 0, outcome
    compared = invoke("compare", model, model, "--data", data, "--max-drop", 0, "--provider", provider)
    assert compared.code == 0, compared


@EACH
def test_a_node_that_it_declines_is_refused(refused: Callable[..., Outcome], tmp_path: Path, provider: str) -> None:
    refused(3, ["bench", write(hardmax(), tmp_path / "m.onnx"), "--provider", provider], "Hardmax", "--allow-fallback")


@EACH
def test_with_leave_the_report_says_what_the_fallback_costs(
    invoke: Callable[..., Outcome], tmp_path: Path, provider: str
) -> None:
    path = write(hardmax(), tmp_path / "m.onnx")
    outcome = invoke("--json", "bench", path, "--provider", provider, "--allow-fallback")
    assert outcome.code == 0, outcome
    found = outcome.document["data"]["fallback"]["m.onnx"]
    assert found["nodes"]["CPUExecutionProvider"] == 1
    assert 0 < found["time_share"] < 1


@pytest.mark.parametrize("provider", [pytest.param("tensorrt", marks=TENSORRT)])
def test_cuda_counts_as_fallback_of_tensorrt(invoke: Callable[..., Outcome], tmp_path: Path, provider: str) -> None:
    path = write(hardmax(), tmp_path / "m.onnx")
    outcome = invoke("--json", "doctor", path)
    row = next(row for row in outcome.document["data"]["model"] if row["provider"] == provider)
    assert not [node for node in row["fallback"] if "TensorrtExecutionProvider" in node]
