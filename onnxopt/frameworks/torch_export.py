"""The two exporters of PyTorch: the one that builds on ``torch.export``, and the tracer of TorchScript.

Both write initializers under the names that the parameters have in the module.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from onnxopt.core.io import load, save_scratch
from onnxopt.core.query import TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.frameworks.torch_flat import Flat
from onnxopt.frameworks.torch_values import module_values, program_values
from onnxopt.frameworks.torch_weights import name_weights
from onnxopt.run.session import Feeds

__all__ = ["ProgramExport", "TorchExport", "TorchScript", "quiet"]


_EXPORT: Any = cast(Any, torch.onnx).export


class TorchExport:
    """``torch.onnx.export(dynamo=True)``. Mutable: it keeps the program that ``write`` captured."""

    name = "torch.export"

    def __init__(
        self, flat: Flat, inputs: Sequence[TensorSpec], example: tuple[Tensor, ...], opset: int | None
    ) -> None:
        self.flat, self.inputs, self.example, self.opset = flat, tuple(inputs), example, opset
        self.program: torch.export.ExportedProgram | None = None

    def write(self, path: Path) -> None:
        """Writes the model to ``path``."""
        axes = tuple({i: torch.export.Dim.DYNAMIC for i in _free(spec)} for spec in self.inputs)
        with _silent():
            exported = _EXPORT(
                self.flat,
                self.example,
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[spec.name for spec in self.inputs],
                opset_version=self.opset,
                external_data=False,
                verbose=False,
            )
        self.program = exported.exported_program
        name_weights(exported.model, self.flat.model)
        save_scratch(exported.model, path)

    def intermediates(self, path: Path, feeds: Feeds) -> Mapping[str, Array]:
        """The values of the captured program, or of the modules where the capture itself is what differs."""
        found = {} if self.program is None else program_values(self.program, self.flat, self.inputs, feeds)
        return found or module_values(load(path), self.flat, self.inputs, feeds)


class ProgramExport:
    """``torch.onnx.export`` of a program that ``torch.export`` has captured before."""

    name = "torch.export"

    def __init__(
        self, program: torch.export.ExportedProgram, flat: Flat, inputs: Sequence[TensorSpec], opset: int | None
    ) -> None:
        self.program, self.flat, self.inputs, self.opset = program, flat, tuple(inputs), opset

    def write(self, path: Path) -> None:
        """Writes the model to ``path``."""
        with _silent():
            exported = _EXPORT(
                self.program,
                dynamo=True,
                input_names=[spec.name for spec in self.inputs],
                opset_version=self.opset,
                external_data=False,
                verbose=False,
            )
        self.program = exported.exported_program
        save_scratch(exported.model, path)

    def intermediates(self, path: Path, feeds: Feeds) -> Mapping[str, Array]:
        """The values of the program."""
        del path
        return program_values(self.program, self.flat, self.inputs, feeds)


class TorchScript:
    """``torch.onnx.export(dynamo=False)``: what one traced call did, with the free axes declared."""

    name = "torchscript"

    def __init__(
        self, flat: Flat, inputs: Sequence[TensorSpec], example: tuple[Tensor, ...], opset: int | None
    ) -> None:
        self.flat, self.inputs, self.example, self.opset = flat, tuple(inputs), example, opset

    def write(self, path: Path) -> None:
        """Writes the model to ``path``."""
        axes = {s.name: {i: str((s.shape or ())[i]) for i in _free(s)} for s in self.inputs}
        raw = path.with_name(f"raw-{path.name}")
        is_script = isinstance(self.flat.model, torch.jit.ScriptModule)  # such a module cannot be part of a trace
        if is_script and self.flat.names is not None:
            raise RuntimeError(f"the inputs of a TorchScript module go by position: {', '.join(self.flat.names)}")
        with _silent(), torch.no_grad():
            _EXPORT(
                self.flat.model if is_script else self.flat,
                self.example,
                str(raw),
                dynamo=False,
                input_names=[spec.name for spec in self.inputs],
                dynamic_axes={name: found for name, found in axes.items() if found},
                opset_version=self.opset,
                verbose=False,
            )
        model = load(raw)
        name_weights(model, self.flat.model)
        save_scratch(model, path)

    def intermediates(self, path: Path, feeds: Feeds) -> Mapping[str, Array]:
        """The outputs of the modules."""
        return module_values(load(path), self.flat, self.inputs, feeds)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """No warnings and no log lines; what is printed goes to stderr, since stdout carries the result."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _silent() -> Generator[None]:
    """``quiet``, and the listings of whole graphs that exporters print when they fail go nowhere: the error is told."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _free(spec: TensorSpec) -> list[int]:
    return [axis for axis, size in enumerate(spec.shape or ()) if not isinstance(size, int)]
