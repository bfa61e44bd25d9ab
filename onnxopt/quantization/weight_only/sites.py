"""Which weights can be stored in blocks, and why the others stay float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import int_attribute, is_op, reason_not_constant
from onnxopt.quantization.dynamic import DYNAMIC
from onnxopt.quantization.select import compute_reason, flag
from onnxopt.quantization.weight_only.blocks import BlockGrid, stored_bytes

__all__ = ["Kind", "Site", "find_sites"]

Kind: TypeAlias = Literal["product", "table"]
"""A weight that rows are multiplied with, or a table that rows are taken from."""
SMALLEST_TABLE = 1 << 14
"""Values of a table below which its share of the file is not worth what lookups get slower."""


@dataclass(frozen=True)
class Site:
    """A node whose weight can be stored in blocks.

    Attributes:
        node: MatMul, Gemm or Gather.
        weight: Its weight.
        kind: What the node does with it.
        transposed: Whether the weight is stored (columns, rows); a row is one output channel or one entry of a table.
        alpha: Factor of the product.
    """

    node: ir.Node
    weight: ir.Value
    kind: Kind
    transposed: bool
    alpha: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        tensor = constant(self.weight)
        dims = (0, 0) if tensor is None else tuple(tensor.shape.numpy())
        return (dims[1], dims[0]) if self.transposed else (dims[0], dims[1])


def find_sites(
    model: Model, grid: BlockGrid, exclude: frozenset[ir.Node], missing: Mapping[Kind, str]
) -> tuple[tuple[Site, ...], tuple[Note, ...]]:
    """The nodes to rewrite, in graph order at all depths, and the other MatMul, Gemm and large lookups with the reason.

    Args:
        model: The model.
        grid: How weights are to be rounded.
        exclude: Nodes that stay float.
        missing: Why the target cannot run one kind of node.
    """
    found: list[Site] = []
    notes: list[Note] = []
    for node in nodes(model):
        if is_op(node, "Conv"):
            notes.append(Note(label(node), "float", "no kernel of Conv takes weights in blocks"))
        if not is_op(node, *DYNAMIC, "Gather") or (node.op_type == "Gather" and not _is_table(node)):
            continue
        kind: Kind = "table" if node.op_type == "Gather" else "product"
        reason = "excluded" if node in exclude else _reason(node) or missing.get(kind)
        site = None if reason is not None else _site(node, kind)
        reason = reason or (None if site is None else _size_reason(site, grid))
        if reason is not None:
            notes.append(Note(label(node), "float", reason))
        elif site is not None:
            found.append(site)
    return _only_whole(found, notes)


def _only_whole(sites: Sequence[Site], notes: list[Note]) -> tuple[tuple[Site, ...], tuple[Note, ...]]:
    """Leaves out weights that another node goes on reading in float: the file would hold them twice."""
    taken = {site.node for site in sites}
    kept: list[Site] = []
    for site in sites:
        others = [label(use.node) for use in site.weight.uses() if use.node not in taken]
        reason = f"{others[0]} reads its weight too, in float" if others else None
        if site.weight.is_graph_output():
            reason = "its weight is an output"
        if reason is None:
            kept.append(site)
        else:
            notes.append(Note(label(site.node), "float", reason))
    return tuple(kept), tuple(notes)


def _site(node: ir.Node, kind: Kind) -> Site | None:
    weight = node.inputs[0 if kind == "table" else 1]
    if weight is None:
        return None
    alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
    transposed = kind == "product" and not (node.op_type == "Gemm" and flag(node, "transB"))
    return Site(node, weight, kind, transposed, alpha)


def _is_table(node: ir.Node) -> bool:
    tensor = constant(node.inputs[0])
    return tensor is not None and tensor.size >= SMALLEST_TABLE and tensor.dtype == ir.DataType.FLOAT


def _reason(node: ir.Node) -> str | None:
    if node.op_type != "Gather":
        return compute_reason(node)
    tensor = constant(node.inputs[0])
    if tensor is None:
        return f"its table {reason_not_constant(node.inputs[0])}"
    if len(tensor.shape) != 2 or int_attribute(node, "axis", 0) not in (0, -2):
        return "it does not take rows of a matrix"
    if constant(node.inputs[1]) is not None:
        return "its indices are constant"
    with borrow(tensor) as array:
        return None if np.isfinite(array).all() else "its table holds NaN or infinity"


def _size_reason(site: Site, grid: BlockGrid) -> str | None:
    rows, columns = site.shape
    if stored_bytes(rows, columns, grid) >= rows * columns * 4:
        return f"its weight of {rows} x {columns} would not get smaller"
    if site.kind == "table" and columns * grid.bits % 8:
        return "the entries of its table do not fill whole bytes"
    return None
