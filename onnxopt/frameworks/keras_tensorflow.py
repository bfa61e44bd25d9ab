"""Keras models on the TensorFlow backend, through Keras' own export (tf2onnx)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.io import load, save_scratch
from onnxopt.core.plugins import optional
from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.content import Digest
from onnxopt.frameworks.base import Exporter
from onnxopt.frameworks.drawing import batch_symbol, feeds_of
from onnxopt.frameworks.keras_call import flat_call, packed
from onnxopt.run.session import Feeds

__all__ = ["NEWEST_OPSET", "OPSET", "KerasTensorFlow", "named", "versions_of"]

OPSET, NEWEST_OPSET = 17, 18
"""Of tf2onnx: where the user names none, and the newest it writes."""


@dataclass(frozen=True)
class KerasTensorFlow:
    """A Keras model that TensorFlow runs.

    Attributes:
        keras: The module.
        model: The model.
        inputs: Name, dtype and shape of each input.
        outputs: Names of the outputs.
        sizes: Usual sizes of the free axes.
        below: Bounds of the integers of inputs that select rows of a table.
        notes: What was found when it was opened.
        framework: ``"keras"``.
    """

    keras: Any
    model: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    sizes: Mapping[str, int]
    below: Mapping[str, int]
    notes: tuple[Note, ...] = ()
    framework: str = "keras"

    @property
    def versions(self) -> Mapping[str, str]:
        """Of Keras, TensorFlow and tf2onnx."""
        return versions_of("keras", "tensorflow", "tf2onnx")

    def run(self, feeds: Feeds) -> tuple[Array, ...]:
        """The outputs in inference mode."""
        values = [self.keras.ops.convert_to_tensor(feeds[spec.name]) for spec in self.inputs]
        found = flat_call(self.model, values)
        return tuple(np.asarray(self.keras.ops.convert_to_numpy(y)) for y in found)

    def fingerprint(self) -> str:
        """Hex SHA-256 over the configuration and all variables."""
        digest = Digest("weights")
        digest.text(self.model.to_json())
        for variable in self.model.variables:
            digest.text(str(variable.path))
            digest.array(np.asarray(self.keras.ops.convert_to_numpy(variable)))
        return digest.hex()

    def feeds(self, batch: int, variant: int, seed: int) -> Feeds | None:
        """Random feeds."""
        return feeds_of(self.inputs, self.sizes, self.below, batch, variant, seed)

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """Keras' own."""

        def write(path: Path) -> None:
            self.run(self.feeds(1, 0, 0) or {})  # Keras exports only what was called once
            version = min(opset or OPSET, NEWEST_OPSET)
            signature = [packed(self.model, [self._spec(spec) for spec in self.inputs])]
            options = {"verbose": False, "opset_version": version, "input_signature": signature}
            self.model.export(path, format="onnx", **options)
            named(path, self.inputs)

        return (Exporter("tf2onnx", write),)

    def _spec(self, spec: TensorSpec) -> Any:
        shape = tuple(d if isinstance(d, int) else None for d in spec.shape or ())
        return self.keras.InputSpec(dtype=str(spec.dtype), shape=shape, name=spec.name)


def named(path: Path, inputs: Sequence[TensorSpec]) -> None:
    """Gives the inputs in the file their own names, and the free axes of outputs names in place of ``unk__12``."""
    model = load(path)
    for value in model.graph.inputs:
        value.name = (value.name or "").partition(":")[0]
    batch = batch_symbol(inputs)
    for index, value in enumerate(model.graph.outputs):
        if value.shape is not None:
            free = [d if isinstance(d, int) else f"output{index}_{i}" for i, d in enumerate(value.shape)]
            if batch is not None and free and not isinstance(free[0], int):
                free[0] = batch
            value.shape = ir.Shape(free)
    save_scratch(model, path)


def versions_of(*packages: str) -> Mapping[str, str]:
    """Package -> version."""
    return {name: str(optional(name, "tf").__version__) for name in packages}
