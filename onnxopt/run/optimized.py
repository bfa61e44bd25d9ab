"""The graph that ONNX Runtime makes of a model for the CPU: which nodes became one integer kernel."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from onnxopt.errors import ModelError
from onnxopt.run.providers import CPU
from onnxopt.run.words import said

__all__ = ["write_optimized"]

FATAL = 4


def write_optimized(model: Path, result: Path) -> None:
    """Writes the fused graph of ``model`` to ``result``, its weights beside it, ahead of changes of the layout.

    Layouts (channels last, blocked channels) are left out: they hide the axes and change nothing that is computed on
    integers.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(result)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{result.name}.data")
    try:
        ort.InferenceSession(str(model), options, providers=[CPU])
    except Exception as error:  # the runtime's exceptions share no base class
        raise ModelError(
            f"ONNX Runtime cannot load the model: {said(error)}",
            where=model.name,
            fix="check the file with `onnx.checker`",
        ) from error
