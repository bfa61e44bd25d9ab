"""Folders of TensorFlow (SavedModel): the signature ``serving_default``, or the only one, through tf2onnx."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.plugins import optional
from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.content import Digest
from onnxopt.errors import ModelError
from onnxopt.frameworks.base import Exporter, Request, require_trust, said_by
from onnxopt.frameworks.drawing import feeds_of, named_axes
from onnxopt.frameworks.keras_tensorflow import NEWEST_OPSET, OPSET, named, versions_of
from onnxopt.frameworks.specs import refuse_described
from onnxopt.run.session import Feeds

__all__ = ["open_saved_model"]

DEFAULT = "serving_default"
SIZE = 16
REACHES_OUT = frozenset({"EagerPyFunc", "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile", "WriteFile"})
"""Operators that read or write files or call Python while the graph runs."""


def open_saved_model(text: str, request: Request) -> SavedModel:
    """The model in a folder.

    Raises:
        InputError: Its graph touches files or Python, and is not trusted.
        UsageError: The user describes inputs.
        ModelError: It cannot be read, or has no signature with inputs of fixed kinds.
    """
    path = Path(text)
    refuse_described(request.inputs, path.name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow: Any = optional("tensorflow", "tf")
    try:
        found = _operators(path) & REACHES_OUT
        if found:
            require_trust(path, request, f"its graph has the operator {sorted(found)[0]}")
        loaded = tensorflow.saved_model.load(str(path))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"TensorFlow cannot read this model: {said_by(error)}",
            where=path.name,
            fix="save it again with tf.saved_model.save or model.export(...)",
        ) from error
    signatures: Mapping[str, Any] = dict(loaded.signatures)
    name = DEFAULT if DEFAULT in signatures else next(iter(signatures)) if len(signatures) == 1 else ""
    if not name:
        raise ModelError(
            f"the model has no signature {DEFAULT!r} (it has {', '.join(signatures) or 'none'})",
            where=path.name,
            fix="save it with signatures={'serving_default': function.get_concrete_function(...)}",
        )
    return SavedModel(tensorflow, loaded, signatures[name], request.sizes)


def _operators(path: Path) -> set[str]:
    """The operators in the file, which is only parsed."""
    proto: Any = optional("tensorflow.core.protobuf.saved_model_pb2", "tf").SavedModel()
    try:
        proto.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf has its own error classes
        raise ValueError(f"saved_model.pb is damaged: {error}") from error
    found: set[str] = set()
    for graph in (meta.graph_def for meta in proto.meta_graphs):
        found.update(node.op for node in graph.node)
        found.update(node.op for function in graph.library.function for node in function.node_def)
    return found


@dataclass(frozen=True)
class SavedModel:
    """One signature of a SavedModel.

    Attributes:
        tensorflow: The module.
        loaded: What was loaded; it owns the variables.
        signature: The function.
        given: Sizes of free axes that the user gave.
        notes: What was found when it was opened.
        framework: ``"tensorflow"``.
    """

    tensorflow: Any
    loaded: Any
    signature: Any
    given: Mapping[str, int]
    notes: tuple[Note, ...] = ()
    framework: str = "tensorflow"

    @property
    def versions(self) -> Mapping[str, str]:
        """Of TensorFlow and tf2onnx."""
        return versions_of("tensorflow", "tf2onnx")

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Arguments of the signature, by name."""
        arguments: Mapping[str, Any] = self.signature.structured_input_signature[1]
        return tuple(_spec(name, arguments[name]) for name in sorted(arguments))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Keys of what it returns, by name."""
        return tuple(sorted(self.signature.structured_outputs))

    def run(self, feeds: Feeds) -> tuple[Array, ...]:
        """The outputs."""
        given = {spec.name: self.tensorflow.constant(feeds[spec.name]) for spec in self.inputs}
        found = self.signature(**given)
        return tuple(np.asarray(found[name].numpy()) for name in self.outputs)

    def fingerprint(self) -> str:
        """Hex SHA-256 over the graph's constants and variables, in order."""
        digest = Digest("weights")
        for variable in self.signature.variables:
            digest.text(str(variable.dtype))
            digest.array(np.asarray(variable.numpy()))
        for operation in self.signature.graph.get_operations():
            digest.text(operation.type)
        return digest.hex()

    def feeds(self, batch: int, variant: int, seed: int) -> Feeds | None:
        """Random feeds."""
        inputs = self.inputs
        free = {d for spec in inputs for d in spec.shape or () if isinstance(d, str)}
        return feeds_of(inputs, {**dict.fromkeys(free, SIZE), **self.given}, {}, batch, variant, seed)

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """tf2onnx."""

        def write(path: Path) -> None:
            convert: Any = optional("tf2onnx.convert", "tf")
            arguments: Mapping[str, Any] = self.signature.structured_input_signature[1]
            names = [spec.name for spec in self.inputs]
            signature = [self.tensorflow.TensorSpec(arguments[n].shape, arguments[n].dtype, name=n) for n in names]

            def call(*values: Any) -> list[Any]:
                found = self.signature(**dict(zip(names, values, strict=True)))
                return [found[name] for name in self.outputs]

            function = self.tensorflow.function(call, input_signature=signature)
            version = min(opset or OPSET, NEWEST_OPSET)
            convert.from_function(function, input_signature=signature, opset=version, output_path=str(path))
            named(path, self.inputs)

        return (Exporter("tf2onnx", write),)


def _spec(name: str, spec: Any) -> TensorSpec:
    return TensorSpec(name, np.dtype(spec.dtype.as_numpy_dtype), named_axes(name, spec.shape.as_list()))
