"""Which constants of a graph are weights: what is multiplied, added or looked up where something trained flows.

A float constant is a weight where an operator has its weights (Conv, MatMul, the scale of a normalization, the table of
a Gather, ...), also when it gets there through operators that only move elements; and where it is added, multiplied or
joined to a value that depends on a weight. Single numbers, masks (values that are infinite or huge), statistics of
BatchNormalization and what normalises the input stay as they are. Integer codes behind DequantizeLinear and in
MatMulNBits are weights on a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import FLOATS, tensor_of
from onnxopt.recover.bridge.types import INTEGER_RANGE

__all__ = ["Found", "find_weights"]

ALL = tuple(range(16))
POSITIONS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "Einsum": ALL,
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "BiasGelu": (1,),
    "FastGelu": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "Gather": (0,),
    "MatMulNBits": (1, 5),
}
"""Inputs at which operators have their weights."""
RELATIVE = frozenset({"Add", "Sub", "Mul", "Div", "Sum", "Concat"})
"""Operators whose constants are weights where the other side depends on one."""
MOVING: Mapping[str, tuple[int, ...]] = {
    "Identity": (0,),
    "Transpose": (0,),
    "Reshape": (0,),
    "Unsqueeze": (0,),
    "Squeeze": (0,),
    "Flatten": (0,),
    "Cast": (0,),
    "Slice": (0,),
    "Split": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Pad": (0,),
    "Concat": ALL,
    "QuantizeLinear": (0,),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "Div": (0, 1),
}
"""Operators through which a constant on its way to such an input is still a weight, and at which inputs."""
HUGE = 1e4
"""Larger magnitudes are those of masks."""


@dataclass(frozen=True)
class Found:
    """A weight.

    Attributes:
        value: The constant: an initializer, or the output of a Constant.
        coder: The node that gives its integer codes their meaning; ``None``: it is stored in floats.
    """

    value: ir.Value
    coder: ir.Node | None = None


def find_weights(model: Model) -> dict[ir.Value, Found]:
    """The weights of the main graph, in the order in which nodes read them."""
    found: dict[ir.Value, Found] = {}
    trained: set[ir.Value] = set()
    while True:
        before = len(found), len(trained)
        for node in model.graph:
            for index, value in enumerate(node.inputs):
                if value is None or not _is_read_as_weight(node, index, trained):
                    continue
                alone = node.op_type in RELATIVE
                for leaf in _leaves(value, node, index):
                    if leaf.value not in found and _is_trainable(leaf, alone=alone):
                        found[leaf.value] = leaf
            if any(v in found or v in trained for v in node.inputs if v is not None):
                trained.update(node.outputs)
        if (len(found), len(trained)) == before:
            return found


def _is_read_as_weight(node: ir.Node, index: int, trained: set[ir.Value]) -> bool:
    if index in POSITIONS.get(node.op_type, ()):
        return True
    return node.op_type in RELATIVE and any(
        v is not None and v in trained and not _is_constant(v) for i, v in enumerate(node.inputs) if i != index
    )


def _is_constant(value: ir.Value) -> bool:
    """Whether a value depends on constants only."""
    producer = value.producer()
    if producer is None:
        return not value.is_graph_input()
    return all(_is_constant(v) for v in producer.inputs if v is not None)


def _leaves(value: ir.Value, reader: ir.Node, index: int) -> Iterator[Found]:
    """The constants that ``value`` is made of, where it is made of constants only."""
    if tensor_of(value) is not None:
        is_code = reader.op_type == "MatMulNBits" and index == 1
        yield Found(value, reader if is_code else None)
        return
    producer = value.producer()
    if producer is None or not _is_constant(value):
        return
    if producer.op_type == "DequantizeLinear":
        codes = producer.inputs[0]
        if codes is not None and tensor_of(codes) is not None:
            yield Found(codes, producer)
        elif codes is not None:
            yield from _leaves(codes, producer, 0)
        return
    for i, inner in enumerate(producer.inputs):
        if inner is not None and i in MOVING.get(producer.op_type, ()):
            yield from _leaves(inner, producer, i)


def _is_trainable(leaf: Found, *, alone: bool) -> bool:
    tensor = tensor_of(leaf.value)
    if tensor is None:
        return False
    if leaf.coder is not None:
        # Other readers would see other values than the ones that are trained.
        return tensor.dtype in INTEGER_RANGE and all(use.node is leaf.coder for use in leaf.value.uses())
    if tensor.dtype not in FLOATS or (alone and tensor.size == 1):
        return False
    with borrow(tensor) as array:
        wide = np.abs(array.astype(np.float32)) if array.dtype.type.__module__ != "numpy" else np.abs(array)
        return bool(wide.size) and float(wide.max()) < HUGE  # false for NaN too
