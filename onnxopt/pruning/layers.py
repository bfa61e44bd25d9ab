"""Linear nodes as matrices: rows are what is read (a row for each tap of the kernel), columns are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import label
from onnxopt.core.tensors import Array
from onnxopt.passes.constants import tensor_of
from onnxopt.passes.gram import Reads
from onnxopt.pruning.channels import Ids
from onnxopt.pruning.structure import Structure
from onnxopt.pruning.walk import Alive, Linear

__all__ = ["Layer", "layers"]

SOLVABLE = ("Conv", "Gemm", "MatMul", "Einsum")
"""Operators whose output is their rows times their matrix."""
READABLE = (*SOLVABLE, "LSTM", "GRU", "RNN", "Attention")
"""Operators whose matrix tells what the rows are worth."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear node.

    Attributes:
        linear: The node, its weights, its axes.
        name: Its label.
        reads: What its rows are.
        rows: Id of each row of one group, for a depthwise Conv of each group; ``None``: no row can go.
        columns: Id of each column, over all groups; ``None``: no column can go.
        can_solve: Whether better weights follow from rows and outputs: the output is rows times matrix plus bias, and
            nothing else reads the weights.
    """

    linear: Linear
    name: str
    reads: Reads
    rows: Ids | None
    columns: Ids | None
    can_solve: bool

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a group of its own."""
        return self.linear.in_axis < 0

    def matrix(self, weight: Array) -> Array:
        """The weights as (groups, rows, columns) float32."""
        found = weight.astype(np.float32)
        if self.linear.node.op_type == "Conv":
            return found.reshape(self.reads.groups, -1, self.reads.size).transpose(0, 2, 1)
        if found.ndim == 3:  # recurrent: directions, rows of the gates, inputs
            return found.reshape(-1, found.shape[2]).T[None]
        return (found if self.linear.out_axis == 1 else found.T)[None]

    def weight(self, matrix: Array, like: Array) -> Array:
        """The inverse of ``matrix``, in the shape and type of ``like``."""
        if self.linear.node.op_type == "Conv":
            return np.ascontiguousarray(matrix.transpose(0, 2, 1).reshape(like.shape), like.dtype)
        found = matrix[0] if self.linear.out_axis == 1 else matrix[0].T
        return np.ascontiguousarray(found, like.dtype)

    def rows_alive(self, stays: Alive) -> Array:
        """Mask of the rows, (groups, rows)."""
        shape = (self.reads.groups, self.reads.size)
        if self.rows is None:
            return np.ones(shape, bool)
        mask = stays(self.rows)
        return np.broadcast_to(mask[:, None] if self.is_depthwise else mask, shape)

    def columns_alive(self, stays: Alive, count: int) -> Array:
        """Mask of the columns, (groups, columns of a group); ``count``: columns over all groups."""
        mask = np.ones(count, bool) if self.columns is None else stays(self.columns)
        return mask.reshape(self.reads.groups, -1)


def layers(model_graph: ir.Graph, structure: Structure) -> tuple[Layer, ...]:
    """The linear nodes of the main graph whose rows can be observed, in graph order."""
    slots = {(slot.value, slot.axis): structure.positions(slot) for slot in structure.slots}
    readers: dict[ir.Value, int] = {}
    for linear in structure.linears:
        for value in (linear.weight, linear.bias):
            if value is not None:
                readers[value] = max(readers.get(value, 0), len(list(value.uses())))
    found: list[Layer] = []
    for linear in structure.linears:
        node = linear.node
        if node.graph is not model_graph or node.op_type not in READABLE or linear.data.name is None:
            continue
        reads = _reads(linear)
        if reads is None:
            continue
        found.append(
            Layer(
                linear,
                label(node),
                reads,
                _row_ids(linear, reads, slots),
                slots.get((linear.weight, linear.out_axis)),
                _is_plain(node) and readers[linear.weight] == 1,
            )
        )
    return tuple(found)


def _is_plain(node: ir.Node) -> bool:
    """Whether the output is rows times matrix plus bias: a Gemm may multiply either by a factor."""
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    return node.op_type in SOLVABLE and not node.domain and (node.op_type != "Gemm" or factors == [1.0, 1.0])


def _reads(linear: Linear) -> Reads | None:
    tensor = tensor_of(linear.weight)
    if tensor is None or linear.data.name is None:
        return None
    shape = tuple(tensor.shape.numpy())
    if linear.node.op_type == "Conv":
        return Reads.of(linear.node, linear.data.name, shape, 0)
    return Reads(linear.data.name, 1, shape[linear.in_axis])


def _row_ids(linear: Linear, reads: Reads, slots: Mapping[tuple[ir.Value, int], Ids]) -> Ids | None:
    if linear.in_axis < 0:
        ids = slots.get((linear.weight, 0))
        return None if ids is None else ids.reshape(reads.groups, -1)[:, 0]
    ids = slots.get((linear.weight, linear.in_axis))
    return None if ids is None else np.repeat(ids, math.prod(reads.kernel or (1,)))
