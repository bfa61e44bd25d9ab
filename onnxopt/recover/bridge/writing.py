"""Trained weights on their way back into the constants that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch

from onnxopt.core.query import Model
from onnxopt.passes.constants import tensor_of
from onnxopt.recover.bridge.grid import Grid
from onnxopt.recover.bridge.types import array_of

__all__ = ["Weight", "writable", "write_weights"]


@dataclass(frozen=True)
class Weight:
    """A trained constant.

    Attributes:
        name: Of the initializer, or of the output of the Constant.
        parameter: Its values; of integer codes: what they stand for.
        grid: The values that it may take; ``None``: any.
        kind: The type in which it is stored.
        readers: Labels and operators of the nodes that read it.
    """

    name: str
    parameter: torch.nn.Parameter
    grid: Grid | None
    kind: ir.DataType
    readers: tuple[tuple[str, str], ...]


def writable(model: Model) -> set[str]:
    """Names of the constants of the main graph: initializers, and outputs of Constant nodes."""
    return {*model.graph.initializers, *_constants(model)}


def write_weights(model: Model, weights: Sequence[Weight]) -> int:
    """Puts the weights into the constants of ``model`` of the same names; the number of those that changed."""
    initializers, constants = model.graph.initializers, _constants(model)
    count = 0
    for weight in weights:
        value = initializers[weight.name] if weight.name in initializers else constants[weight.name].outputs[0]
        old = tensor_of(value)
        if old is None:
            continue
        new = _stored(weight, old)
        if new.tobytes() == old.tobytes():
            continue
        count += 1
        if weight.name in initializers:
            value.const_value = new
        else:
            _set_constant(constants[weight.name], new)
    return count


def _constants(model: Model) -> dict[str, ir.Node]:
    return {v.name: n for n in model.graph if n.op_type == "Constant" for v in n.outputs if v.name}


def _stored(weight: Weight, old: ir.TensorProtocol) -> ir.TensorProtocol:
    if weight.grid is not None:
        array = weight.grid.encoded(weight.parameter, weight.kind).reshape(old.shape.numpy())
    else:
        array = array_of(weight.parameter, weight.kind)
    return ir.Tensor(
        array, dtype=weight.kind, name=old.name, doc_string=old.doc_string, metadata_props=dict(old.metadata_props)
    )


def _set_constant(node: ir.Node, tensor: ir.TensorProtocol) -> None:
    name = next(n for n in node.attributes if n.startswith("value"))
    if name == "value":
        node.attributes[name] = ir.AttrTensor(name, tensor)
    elif name == "value_floats":
        node.attributes[name] = ir.AttrFloat32s(name, [float(v) for v in tensor.numpy().reshape(-1)])
