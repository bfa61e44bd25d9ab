"""Initializers under the names that the parameters have in the module, whichever exporter wrote them.

Exporters keep most names. What they transpose (``val_14``, ``onnx::MatMul_25``) is found by its values; what they fold
a batch normalization into, by the module that the node which reads it belongs to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import cast

import onnx_ir as ir
from torch import Tensor, nn

from onnxopt.core.tensors import Array, borrow
from onnxopt.frameworks.torch_flat import PREFIX, array_from
from onnxopt.frameworks.torch_values import scopes

__all__ = ["name_weights"]

ROLES = ("weight", "bias")
"""Inputs 1 and 2 of the operators that have a folded weight."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)
FOLDED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def name_weights(model: ir.Model, module: nn.Module) -> None:
    """Renames initializers in place.

    Args:
        model: What an exporter wrote for a ``Flat`` around ``module``.
        module: Holds the parameters.
    """
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    graph = model.graph
    for value in list(graph.initializers.values()):
        name = (value.name or "").removeprefix(PREFIX)
        if name in state:
            _rename(graph, value, name)
    missing = {name: value for name, value in state.items() if name not in graph.initializers}
    by_values = _digests(missing)
    by_module = _by_module(model, module)
    for value in list(graph.initializers.values()):
        if value.name in state or value.const_value is None or value.const_value.dtype not in _FLOATS:
            continue
        if value.const_value.size < 2:
            continue
        with borrow(value.const_value) as array:
            found = by_values.get(_digest(array)) or by_values.get(_digest(array.T))
        name = found or by_module.get(value.name or "")
        if name is not None:
            _rename(graph, value, name)


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Unless something else has that name already."""
    if value.name == name or name in graph.initializers:
        return
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name


def _digests(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {_digest(array_from(value)): name for name, value in reversed(list(state.items())) if value.numel() > 1}


def _digest(array: Array) -> str:
    header = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def _by_module(model: ir.Model, module: nn.Module) -> dict[str, str]:
    """Initializer -> ``<module>.weight`` or ``.bias`` of the module whose node alone reads it."""
    parts = cast(Iterator[tuple[str, nn.Module]], module.named_modules())
    known = {"model", *(f"{PREFIX}{name}" for name, _ in parts if name)}
    names: dict[str, str] = {}
    for node in model.graph:
        inner = scopes(node, known)
        if node.op_type not in FOLDED or not inner:
            continue
        for value, role in zip(node.inputs[1:3], ROLES, strict=False):
            if value is not None and value.name and value.name in model.graph.initializers and len(value.uses()) == 1:
                names[value.name] = f"{inner[-1].removeprefix(PREFIX)}.{role}"
    return names
