"""What every provider but the CPU must do: models that it runs, and models with a node that it declines."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from tests.cli.command_line import REPOSITORY
from tests.cli.sample_models import mlp_weights, parsed

MNIST = REPOSITORY / "calibration_data" / "mnist"
HARDMAX = """
<ir_version: 8, opset_import: ["" : 17]>
declined (float[N, 16] x) => (float[N, 4] y) {
  h = MatMul(x, w1)
  r = Relu(h)
  m = Hardmax(r)
  y = MatMul(m, w2)
}
"""
"""Hardmax: neither OpenVINO nor CUDA has it."""


def hardmax() -> onnx.ModelProto:
    model = parsed(HARDMAX, mlp_weights())
    model.graph.node[2].name = "unusual"
    return model


def needs(marker: str, name: str, package: str) -> list[pytest.MarkDecorator]:
    """The marker, and skips with the reason where the provider is not installed or there is no GPU for it."""
    is_there, has_gpu = name in ort.get_available_providers(), shutil.which("nvidia-smi") is not None
    return [
        getattr(pytest.mark, marker),
        pytest.mark.skipif(marker == "gpu" and not has_gpu, reason="there is no NVIDIA GPU (no nvidia-smi)"),
        pytest.mark.skipif(not is_there, reason=f"{package} is not installed"),
    ]


def without_library(folder: Path, name: str) -> Path:
    """A copy (of links) of the installed ``onnxruntime`` in ``folder`` that lacks the library ``name``."""
    installed = Path(ort.__file__).parent
    for source in installed.rglob("*"):
        target = folder / "onnxruntime" / source.relative_to(installed)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif source.name != name:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    return folder
