"""Keras models on the torch backend: a torch module like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from onnxopt.core.query import TensorSpec
from onnxopt.frameworks.base import Original
from onnxopt.frameworks.keras_call import flat_call
from onnxopt.frameworks.torch_flat import Flat
from onnxopt.frameworks.torch_model import TorchModel

__all__ = ["keras_torch"]


class _Call(nn.Module):
    """A Keras model as a function of flat tensors, in inference mode."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, flat."""
        return tuple(flat_call(self.model, tensors))


def keras_torch(
    keras: Any,
    model: Any,
    inputs: tuple[TensorSpec, ...],
    outputs: Sequence[str],
    sizes: Mapping[str, int],
    below: Mapping[str, int],
) -> Original:
    """The model with the exporters of PyTorch."""
    flat = Flat(_Call(model), None)
    flat.eval()
    versions = {"keras": str(keras.__version__)}
    return TorchModel(flat, inputs, sizes, below, tuple(outputs), (), versions, "keras")
