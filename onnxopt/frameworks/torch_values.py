"""What a torch module computes on the way, by the name of the ONNX value that is to hold the same.

The exporter that builds on ``torch.export`` names ONNX values after the nodes of the program that it captured. Where
the capture itself is wrong (a branch that the example did not take), the program agrees with the ONNX file and differs
from the module: then the outputs of submodules are compared with the last value that the same submodule made in the
file, as the scopes in the names or the metadata of its nodes tell.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn

from onnxopt.core.query import Model, TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.frameworks.parity import differing
from onnxopt.frameworks.torch_flat import Flat, array_from, tensor_from
from onnxopt.run.session import Feeds

__all__ = ["module_values", "program_values", "scopes"]

SCOPES = "pkg.torch.onnx.name_scopes"
SAME = 1e-5
"""The program is taken to be right when its outputs are as near to those of the module, relative to the largest."""


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps what each node gives. Mutable: it fills ``values``."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """The value of a node."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result
        return result


def program_values(
    program: torch.export.ExportedProgram, flat: Flat, inputs: Sequence[TensorSpec], feeds: Feeds
) -> dict[str, Array]:
    """The values of a captured program by the names of its nodes; empty where it differs from the module itself."""
    tensors = {spec.name: tensor_from(feeds[spec.name]) for spec in inputs}
    user = iter(tensors.values())
    arguments: list[object] = []
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            arguments.append(next(user, None))
        else:
            arguments.append(program.state_dict.get(spec.target, program.constants.get(spec.target)))
    recorder = _Recorder(program.graph_module)
    with torch.no_grad():
        try:
            found = cast(object, recorder.run(*arguments))
        except Exception:  # a guard of the program, which may raise anything: it does not take what the module takes
            return {}
        expected = flat(*tensors.values())
    outputs = [item for item in cast(Sequence[object], found) if isinstance(item, Tensor)]
    pairs = [(array_from(first), array_from(second)) for first, second in zip(outputs, expected, strict=False)]
    if len(outputs) != len(expected) or any(differing(*pair, SAME) for pair in pairs):
        return {}
    return {name: array_from(value) for name, value in recorder.values.items()}


def module_values(model: Model, flat: Flat, inputs: Sequence[TensorSpec], feeds: Feeds) -> dict[str, Array]:
    """The outputs of the submodules that are called once and give one tensor, by ONNX value."""
    called: dict[str, list[Tensor | None]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: object, result: object) -> None:
            del module, arguments
            called.setdefault(name, []).append(result.detach().clone() if isinstance(result, Tensor) else None)

        return hook

    named = [(name, module) for name, module in cast(Iterator[tuple[str, nn.Module]], flat.named_modules()) if name]
    if any(isinstance(module, torch.jit.ScriptModule) for _, module in named):
        return {}
    handles = [module.register_forward_hook(keep(name)) for name, module in named]
    try:
        with torch.no_grad():
            flat(*(tensor_from(feeds[spec.name]) for spec in inputs))
    finally:
        for handle in handles:
            handle.remove()
    last: dict[str, str] = {}
    for node in model.graph:
        for name in scopes(node, called):
            if len(node.outputs) == 1 and node.outputs[0].name:
                last[name] = node.outputs[0].name
    found: dict[str, Array] = {}
    for name, results in called.items():
        if len(results) == 1 and results[0] is not None and name in last:
            found.setdefault(last[name], array_from(results[0]))
    return found


def scopes(node: ir.Node, known: Collection[str]) -> tuple[str, ...]:
    """The modules that a node belongs to, outer ones first, as far as they are among the ``known`` dotted names.

    One exporter writes ``['', 'model', 'model.layer1', 'conv2d']`` into the metadata, the other one names the node
    ``/model/layer1/layer1.0/conv1/Conv``, where a part is the name in its parent or begins with the parent's own.
    """
    metadata = node.metadata_props.get(SCOPES)
    if metadata is not None:
        try:
            listed = cast(list[str], ast.literal_eval(metadata))
        except (SyntaxError, ValueError):
            return ()
        return tuple(part for part in listed[:-1] if part in known)
    found: list[str] = []
    for part in (node.name or "").split("/")[1:-1]:
        path = f"{found[-1]}." if found else ""
        name = next((n for n in (f"{path}{part}", f"{path}{part.rsplit('.', 1)[-1]}") if n in known), None)
        if name is None:
            break
        found.append(name)
    return tuple(found)
