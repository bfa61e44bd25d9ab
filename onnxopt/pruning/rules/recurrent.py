"""LSTM, GRU, RNN: a hidden unit is a row of each gate, a column of the recurrence, and an entry of the state."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.pruning.adjust import CountAttribute
from onnxopt.pruning.channels import Axis
from onnxopt.pruning.rules.elementwise import read
from onnxopt.pruning.walk import Declined, Linear, Walk

__all__ = ["recurrent"]

FIXED = "its state is joined with what is never cut"
STATES, PEEPHOLES = (5, 6), 7


def recurrent(node: ir.Node, walk: Walk) -> None:
    """W (dirs, gates * H, in), R (dirs, gates * H, H), B (dirs, 2 * gates * H), states (dirs, batch, H)."""
    data, w, r = (read(node, i) for i in range(3))
    if not walk.is_constant(w) or not walk.is_constant(r):
        raise Declined("its weights are no constants")
    size = walk.shape(r)[2]
    walk.pin_axes(data, (0, 1), f"{node.op_type} runs over it")
    walk.tie(walk.axis(data, 2), walk.axis(w, 2), FIXED)
    units: Axis = walk.axis(r, 2)
    units = _gates(walk.axis(w, 1), units, size, walk)
    units = _gates(walk.axis(r, 1), units, size, walk)
    for index in (3, PEEPHOLES):
        value = _optional(node, index)
        if value is not None:
            if not walk.is_constant(value):
                raise Declined("its bias is no constant")
            units = _gates(walk.axis(value, 1), units, size, walk)
    for index in STATES:
        value = _optional(node, index)
        if value is not None:
            units = walk.tie(walk.axis(value, 2), units, FIXED)
    if units is not None:
        walk.adjustments.append(CountAttribute(node, "hidden_size", units))
    walk.linears.append(Linear(node, data, 2, w, 2, 1, None))
    for index, output in enumerate(node.outputs):
        if output.name:
            rank = 4 if index == 0 else 3
            walk.put(output, [*[None] * (rank - 1), units])


def _optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _gates(ids: Axis, units: Axis, size: int, walk: Walk) -> Axis:
    """Ties the rows of every gate to the units."""
    if ids is None or units is None:
        walk.channels.pin(ids, FIXED)
        walk.channels.pin(units, FIXED)
        return None
    for row in np.reshape(ids, (-1, size)):
        walk.channels.unite(units, row)
    return units
