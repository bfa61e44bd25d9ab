"""Keras models on the torch backend: a torch module like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from onnxopt.core.query import TensorSpec
from onnxopt.frameworks.base import Original
from onnxopt.frameworks.torch_flat import Flat
from onnxopt.frameworks.torch_model import TorchModel

__all__ = ["keras_torch"]


class _Call(nn.Module):
    """A Keras model as a function of flat tensors, in inference mode."""

    def __init__(self, keras: Any, model: Any) -> None:
        super().__init__()
        self.model = model
        self._flatten, self._pack = keras.tree.flatten, keras.tree.pack_sequence_as
        self._structure = getattr(model, "_inputs_struct", None)
        self._structure = model.inputs if self._structure is None else self._structure

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, flat."""
        packed = tensors[0] if len(tensors) == 1 else self._pack(self._structure, list(tensors))
        return tuple(self._flatten(self.model(packed, training=False)))


def keras_torch(
    keras: Any,
    model: Any,
    inputs: tuple[TensorSpec, ...],
    outputs: Sequence[str],
    sizes: Mapping[str, int],
    below: Mapping[str, int],
) -> Original:
    """The model with the exporters of PyTorch."""
    flat = Flat(_Call(keras, model), None)
    flat.eval()
    versions = {"keras": str(keras.__version__)}
    return TorchModel(flat, inputs, sizes, below, tuple(outputs), (), versions, "keras")
