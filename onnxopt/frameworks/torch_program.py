"""``.pt2`` files: programs that ``torch.export`` captured.

Reading one runs pickles and evaluates expressions that stand in the file as text (``torch.export.load`` warns of it):
only with ``--trust``. What is free, and whether the program is one of training, was decided when it was captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from onnxopt.core.query import TensorSpec
from onnxopt.errors import InputError
from onnxopt.frameworks.base import Exporter, Request, require_trust
from onnxopt.frameworks.drawing import symbols
from onnxopt.frameworks.torch_export import ProgramExport, quiet
from onnxopt.frameworks.torch_flat import Flat
from onnxopt.frameworks.torch_model import TorchModel, weights_digest
from onnxopt.frameworks.torch_signature import failed_at

__all__ = ["open_program"]

USUAL = 16
"""Size of a free axis of which the file holds no example."""


@dataclass(frozen=True)
class Program(TorchModel):
    """A captured program.

    Attributes:
        program: What was captured; ``flat`` calls it.
    """

    program: torch.export.ExportedProgram = field(kw_only=True)

    def fingerprint(self) -> str:
        """Hex SHA-256 over the parameters, buffers and constants."""
        return weights_digest({**self.program.constants, **self.program.state_dict})

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """The one that translates such programs."""
        way = ProgramExport(self.program, self.flat, self.inputs, opset)
        return (Exporter(way.name, way.write, way.intermediates),)


class _Call(nn.Module):
    """Calls a program with its tensors in the order of its signature."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.spec = program.call_spec.in_spec

    def forward(self, *tensors: Tensor) -> object:
        """What the program returns."""
        arguments, keywords = cast(tuple[tuple[object, ...], dict[str, object]], self._nested(tensors))
        return self.program(*arguments, **keywords)

    def _nested(self, tensors: Sequence[Tensor]) -> object:
        return pytree.tree_unflatten(list(tensors), self.spec)  # pyright: ignore[reportArgumentType]


def open_program(text: str, request: Request) -> Program:
    """The program in a ``.pt2`` file.

    Raises:
        InputError: The file is not trusted, is damaged, or its program takes something else than tensors.
    """
    path = Path(text)
    require_trust(path, request, "it holds pickles and text that Python evaluates")
    try:
        with quiet():
            program = torch.export.load(path)
            flat = Flat(_Call(program), None)
    except Exception as error:  # the reader raises whatever it met
        raise InputError(
            f"PyTorch {torch.__version__} cannot read the program: {failed_at(error)}",
            where=path.name,
            fix="export it again with torch.export.save of this version",
        ) from error
    inputs, below = _inputs(program, path)
    sizes = {**dict.fromkeys(symbols(inputs), USUAL), **_examples(program, inputs), **request.sizes}
    original = Program(flat, inputs, sizes, below, (), program=program)
    feeds = original.feeds(2, 0, request.seed) or original.feeds(1, 0, request.seed) or {}
    try:
        with torch.no_grad(), quiet():
            names = tuple(flat.named(*original.tensors(feeds)))
    except Exception as error:  # guards of the program
        raise InputError(
            f"the program does not run on random inputs: {failed_at(error)}",
            where=f"{path.name}: {'; '.join(map(str, inputs))}",
            fix="capture it with the free axes that it is to have (dynamic_shapes)",
        ) from error
    return replace(original, outputs=names)


def _inputs(program: torch.export.ExportedProgram, path: Path) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """The inputs, and of those that select rows of a table how many rows it has."""
    wanted = set(map(str, program.graph_signature.user_inputs))
    specs: list[TensorSpec] = []
    below: dict[str, int] = {}
    for node in program.graph.nodes:
        value: object = node.meta.get("val")
        if node.op != "placeholder" or node.name not in wanted:
            continue
        if not isinstance(value, Tensor):
            raise InputError(
                f"input {node.name!r} is {type(value).__name__}, not a tensor",
                where=path.name,
                fix="capture the program with tensors as its only inputs",
            )
        dtype = np.dtype(str(value.dtype).removeprefix("torch."))
        specs.append(TensorSpec(node.name, dtype, _axes(value)))
        for user in node.users:
            if user.target is torch.ops.aten.embedding.default:
                below[node.name] = int(user.args[0].meta["val"].shape[0])
    return tuple(specs), below


def _axes(value: Tensor) -> tuple[int | str, ...]:
    """Sizes, and names of those that are free (``torch.SymInt``)."""
    axes = cast(Sequence[object], value.shape)
    return tuple(axis if isinstance(axis, int) else str(axis) for axis in axes)


def _examples(program: torch.export.ExportedProgram, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Sizes of the free axes in the example that the file holds."""
    leaves = [leaf for leaf in pytree.tree_leaves(program.example_inputs) if isinstance(leaf, Tensor)]
    if len(leaves) != len(inputs):
        return {}
    pairs = zip(inputs, leaves, strict=True)
    return {
        d: int(n)
        for spec, leaf in pairs
        for d, n in zip(spec.shape or (), leaf.shape, strict=False)
        if isinstance(d, str)
    }
