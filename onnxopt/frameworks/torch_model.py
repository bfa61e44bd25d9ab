"""A torch module in evaluation mode as an ``Original``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.content import Digest
from onnxopt.frameworks.base import Exporter
from onnxopt.frameworks.drawing import feeds_of
from onnxopt.frameworks.torch_export import TorchExport, TorchScript
from onnxopt.frameworks.torch_flat import Flat, array_from, tensor_from
from onnxopt.run.session import Feeds

__all__ = ["EXAMPLE_BATCH", "TorchModel", "weights_digest"]

EXAMPLE_BATCH = 2
"""Samples of the call that exporters watch: ``torch.export`` takes a size of 1 for a constant."""


@dataclass(frozen=True)
class TorchModel:
    """A torch module, its inputs, and how to draw feeds for it.

    Attributes:
        flat: The module, in evaluation mode.
        inputs: Name, dtype and shape of each input, in the order of the call.
        sizes: Usual sizes of the free axes.
        below: Bounds of the integers of inputs that select rows of a table.
        outputs: Names of the outputs.
        notes: What was found when it was opened.
        extra_versions: Of packages other than torch that define the module.
    """

    flat: Flat
    inputs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]
    below: Mapping[str, int]
    outputs: tuple[str, ...]
    notes: tuple[Note, ...] = ()
    extra_versions: Mapping[str, str] = field(default_factory=dict[str, str])
    framework: str = "pytorch"

    @property
    def versions(self) -> Mapping[str, str]:
        """Of torch, and of what else defines the module."""
        return {"torch": str(torch.__version__), **self.extra_versions}

    def run(self, feeds: Feeds) -> tuple[Array, ...]:
        """The outputs for these feeds."""
        with torch.no_grad():
            return tuple(map(array_from, self.flat(*self.tensors(feeds))))

    def tensors(self, feeds: Feeds) -> tuple[Tensor, ...]:
        """The feeds in the order of the call."""
        return tuple(tensor_from(feeds[spec.name]) for spec in self.inputs)

    def fingerprint(self) -> str:
        """Hex SHA-256 over names, dtypes, shapes and values of all parameters and buffers."""
        return weights_digest(self.flat.model.state_dict())

    def feeds(self, batch: int, variant: int, seed: int) -> Feeds | None:
        """Random feeds, integers within the tables that they select from."""
        return feeds_of(self.inputs, self.sizes, self.below, batch, variant, seed)

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """``torch.export``, then the tracer of TorchScript."""
        feeds = self.feeds(EXAMPLE_BATCH, 0, 0) or self.feeds(1, 0, 0)
        example = self.tensors(feeds or {})
        ways = (
            TorchExport(self.flat, self.inputs, example, opset),
            TorchScript(self.flat, self.inputs, example, opset),
        )
        if isinstance(self.flat.model, torch.jit.ScriptModule):
            ways = ways[1:]
        return tuple(Exporter(way.name, way.write, way.intermediates) for way in ways)


def weights_digest(state: Mapping[str, object]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and values of the tensors in ``state``, by name."""
    digest = Digest("weights")
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            digest.text(f"{name} {value.dtype}")
            digest.array(array_from(value))
    return digest.hex()
