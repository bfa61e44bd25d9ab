"""Keras 3 models: ``.keras`` and ``.h5`` files.

With TensorFlow installed Keras converts them through tf2onnx: recurrent layers become the operators LSTM and GRU, and
all lengths stay free. Without it, with torch as the backend, they take the exporters of PyTorch modules; recurrent
layers are then one group of nodes a step, for one length. ``KERAS_BACKEND`` chooses, as everywhere in Keras.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from onnxopt.core.plugins import optional
from onnxopt.core.query import TensorSpec
from onnxopt.errors import MissingExtraError, ModelError
from onnxopt.frameworks.base import Original, Request, require_trust, said_by
from onnxopt.frameworks.drawing import BATCH, named_axes
from onnxopt.frameworks.specs import narrowed

__all__ = ["open_keras"]

BACKENDS = {"tensorflow": ("tensorflow", "tf2onnx"), "torch": ("torch", "onnxscript")}
"""Backend -> the packages that an export through it needs; the first that is complete is taken."""
SIZE = 16
"""Usual size of a free axis; images have at least twice as much."""


def open_keras(text: str, request: Request) -> Original:
    """The model in a file.

    Raises:
        InputError: Keras or a backend is missing, or the file holds code (Lambda layers) and is not trusted.
        ModelError: It cannot be read, or has no fixed signature.
    """
    path = Path(text)
    backend = _backend()
    keras: Any = optional("keras", "keras")
    model: Any = _loaded(keras, path, request)
    inputs = narrowed(_inputs(model, path), request.inputs, path.name)
    names = _outputs(keras, model)
    sizes = {d: _usual(s) for s in inputs for d in s.shape or () if isinstance(d, str) and d != BATCH}
    sizes |= request.sizes
    below = _bounds(keras, model, inputs)
    if backend == "torch":
        from onnxopt.frameworks.keras_torch import keras_torch

        return keras_torch(keras, model, inputs, names, sizes, below)
    from onnxopt.frameworks.keras_tensorflow import KerasTensorFlow

    return KerasTensorFlow(keras, model, inputs, names, sizes, below)


def _backend() -> str:
    """The backend of Keras, chosen before it is imported.

    Raises:
        MissingExtraError: There is none through which it can export.
    """
    if "keras" in sys.modules:
        found = str(cast(Any, sys.modules["keras"]).backend.backend())
    else:
        complete = [n for n, packages in BACKENDS.items() if all(find_spec(p) is not None for p in packages)]
        found = os.environ.get("KERAS_BACKEND") or next(iter(complete), "")
    if found not in BACKENDS:
        state = f"its backend is {found}" if found else "neither is installed"
        raise MissingExtraError(
            f"Keras exports through TensorFlow or torch, and {state}",
            where="KERAS_BACKEND",
            fix="pip install 'onnxopt[tf]' (TensorFlow, tf2onnx) or 'onnxopt[keras]' (torch)",
        )
    for package in BACKENDS[found]:
        optional(package, "tf" if found == "tensorflow" else "keras")
    os.environ.setdefault("KERAS_BACKEND", found)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return found


def _loaded(keras: Any, path: Path, request: Request) -> Any:
    try:
        return keras.models.load_model(path, compile=False, safe_mode=not request.trust)
    except Exception as error:  # Keras raises what its layers raise
        said = " ".join(str(error).split())
        if not request.trust and any(word in said for word in ("safe_mode", "unsafe", "lambda")):
            require_trust(path, request, "a Lambda layer: Keras keeps its code as bytes")
        raise ModelError(
            f"Keras cannot read this model: {said_by(error)}",
            where=path.name,
            fix="save it again with model.save(...) of Keras 3; layers of your own cannot be read here",
        ) from error


def _inputs(model: Any, path: Path) -> tuple[TensorSpec, ...]:
    tensors = getattr(model, "inputs", None)
    if not tensors:
        raise ModelError(
            "the model has no fixed signature: it was never built, or its class was written by hand",
            where=f"{path.name}: {type(model).__name__}",
            fix="save a Functional or Sequential model with an Input, after one call",
        )
    specs: list[TensorSpec] = []
    for tensor in cast(Sequence[Any], tensors):
        name = str(tensor.name)
        specs.append(TensorSpec(name, np.dtype(str(tensor.dtype)), named_axes(name, tensor.shape)))
    return tuple(specs)


def _outputs(keras: Any, model: Any) -> tuple[str, ...]:
    """Keys of a dictionary, else the names of the layers that give them."""
    structure: Any = getattr(model, "_outputs_struct", None)
    if hasattr(structure, "values") and all(not keras.tree.is_nested(v) for v in structure.values()):
        return tuple(sorted(map(str, structure)))
    names = [str(name) for name in getattr(model, "output_names", ())]
    count = len(keras.tree.flatten(model.outputs))
    if len(names) == count == len(set(names)):
        return tuple(names)
    return tuple(f"output_{i}" for i in range(count)) if count > 1 else ("output",)


def _usual(spec: TensorSpec) -> int:
    return 2 * SIZE if len(spec.shape or ()) >= 4 else SIZE


def _bounds(keras: Any, model: Any, inputs: Sequence[TensorSpec]) -> Mapping[str, int]:
    """Bounds of integers: the smallest table that may be read with them."""
    tables = [int(layer.input_dim) for layer in _layers(model) if isinstance(layer, keras.layers.Embedding)]
    if not tables:
        return {}
    return {s.name: min(tables) for s in inputs if s.dtype is not None and s.dtype.kind in "iu"}


def _layers(model: Any) -> list[Any]:
    found: list[Any] = []
    for layer in cast(Sequence[Any], getattr(model, "layers", ())):
        found += [layer, *_layers(layer)]
        inner = getattr(layer, "layer", None)
        found += [inner, *_layers(inner)] if inner is not None else []
    return found
