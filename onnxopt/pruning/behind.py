"""What follows a linear layer: a sum with another value, and a Relu or Clip that lets only a part through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import array_of, is_op, single_reader
from onnxopt.pruning.ridge import Bounds
from onnxopt.pruning.walk import Linear

__all__ = ["Behind", "behind"]


OPEN = Bounds()


@dataclass(frozen=True)
class Behind:
    """What follows a layer.

    Attributes:
        added: Name of the computed value that is added to its output; ``None``: nothing is.
        bounds: What passes behind that.
    """

    added: str | None = None
    bounds: Bounds = OPEN


def behind(linear: Linear) -> Behind:
    """What follows a layer, as far as nothing else reads what is in between."""
    value: ir.Value = linear.node.outputs[0]
    reader = single_reader(value)
    if linear.bias is not None and reader is not None and linear.bias in reader.inputs and is_op(reader, "Add"):
        value = reader.outputs[0]
        reader = single_reader(value)
    added = None
    if reader is not None and is_op(reader, "Add"):
        other = [v for v in reader.inputs if v is not value]
        if len(other) == 1 and other[0] is not None and array_of(other[0]) is None:
            added = other[0].name
            reader = single_reader(reader.outputs[0])
    return Behind(added, _bounds(reader))


def _bounds(node: ir.Node | None) -> Bounds:
    if node is not None and is_op(node, "Relu"):
        return Bounds(0.0)
    if node is None or not is_op(node, "Clip"):
        return Bounds()
    found: list[float] = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        attribute = node.attributes.get_float(name, None)
        given = node.inputs[index] if len(node.inputs) > index else None
        array = array_of(given)
        if given is not None and array is None:
            return Bounds()
        found.append(float(array.ravel()[0]) if array is not None else default if attribute is None else attribute)
    return Bounds(*found)
