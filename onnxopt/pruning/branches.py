"""Residual branches, and how much each one changes what goes past it.

Source: ShortGPT, Men et al. 2024, https://arxiv.org/abs/2403.03853: the influence of a block is
``1 - mean cos(x_in, x_out)`` over the vectors of its input and output. A block here is one branch ``x + f(x)`` (the
attention or the MLP of a transformer, the Convs of a residual network), in post-norm networks with the norm behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, label
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context
from onnxopt.passes.constants import is_op, single_reader, tensor_of
from onnxopt.run.tap import tap

__all__ = ["Block", "Influence", "blocks", "choose", "influences"]

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention", "LSTM", "GRU")
NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class Block:
    """A residual branch, by names: the same for every copy of the model.

    Attributes:
        name: Label of the Add.
        start: The value that goes past it.
        end: The value that stands for both, after the norm in post-norm networks.
        inside: Labels of the nodes that compute the branch.
    """

    name: str
    start: str
    end: str
    inside: frozenset[str]


@dataclass(frozen=True)
class Influence:
    """How much a block changes what goes past it: 0 nothing, 1 everything."""

    block: Block
    value: float


def blocks(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> list[Block]:
    """The residual branches with weights in the main graph, in graph order.

    Args:
        model: The model; it is not changed.
        shapes: Shapes of its values in one call.
    """
    found: list[Block] = []
    nodes = list(model.graph)
    before = _before(nodes)
    for node in nodes:
        if not is_op(node, "Add") or len(node.inputs) != 2:
            continue
        for start, branch in (node.inputs, node.inputs[::-1]):
            block = None if start is None or branch is None else _block(node, start, branch, shapes, nodes, before)
            if block is not None:
                found.append(block)
                break
    return found


def _block(
    node: ir.Node,
    start: ir.Value,
    branch: ir.Value,
    shapes: Mapping[str, tuple[int, ...]],
    nodes: Sequence[ir.Node],
    before: Mapping[ir.Node, int],
) -> Block | None:
    """The block that ``node`` ends when ``branch`` follows from ``start`` through a linear node."""
    end, last = node.outputs[0], branch.producer()
    if last is None or last not in before or tensor_of(start) is not None or start is branch:
        return None
    inside: dict[ir.Node, None] = {}
    for index, other in enumerate(nodes):
        if (before[last] >> index) & 1 and any(v is start or _maker(v) in inside for v in other.inputs):
            inside[other] = None
    if last not in inside or not any(_is_linear(other) for other in inside):
        return None
    source, reader = start.producer(), single_reader(end)
    if reader is not None and reader.op_type in NORMS and source is not None and source.op_type in NORMS:
        end = reader.outputs[0]
    known = [shapes.get(value.name or "") for value in (start, branch, end)]
    if end.is_graph_output() or known[0] is None or len(known[0]) < 2 or len(set(known)) != 1:
        return None
    return Block(label(node), start.name or "", end.name or "", frozenset(map(label, inside)))


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_linear(node: ir.Node) -> bool:
    return node.op_type in LINEAR and any(tensor_of(value) is not None for value in node.inputs)


def _before(nodes: Sequence[ir.Node]) -> dict[ir.Node, int]:
    """The nodes that each node follows from and itself, as bits: bit i for the i-th node."""
    found: dict[ir.Node, int] = {}
    for index, node in enumerate(nodes):
        bits = 1 << index
        for value in node.inputs:
            maker = _maker(value)
            if maker is not None:
                bits |= found.get(maker, 0)
        found[node] = bits
    return found


def influences(model: Model, found: Sequence[Block], ctx: Context) -> list[Influence]:
    """The influence of each block over the data, the lowest first."""
    if ctx.data is None or not found:
        return []
    data = ctx.data
    names = list(dict.fromkeys(name for block in found for name in (block.start, block.end)))
    total: dict[Block, list[float]] = {block: [] for block in found}
    with ctx.progress.task("measuring what blocks change", len(data)) as advance:
        for values in tap(model, names, lambda: (s.feeds for s in data), ctx.target, ctx.workdir):
            for block in found:
                if block.start in values and block.end in values:
                    total[block].append(_turn(values[block.start], values[block.end]))
            advance(1)
    known = [Influence(block, float(np.mean(turns))) for block, turns in total.items() if turns]
    return sorted((i for i in known if np.isfinite(i.value)), key=lambda i: i.value)


def _turn(before: Array, after: Array) -> float:
    """``1 - mean cos`` over the vectors of channels: axis 1 of images, else the last."""
    axis = 1 if before.ndim >= 4 else -1
    a, b = before.astype(np.float64), after.astype(np.float64)
    length = np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))
    cosine = np.divide((a * b).sum(axis=axis), length, out=np.ones_like(length), where=length > 0)
    return 1.0 - float(cosine.mean())


def choose(order: Sequence[Influence], count: int) -> tuple[Block, ...]:
    """The ``count`` blocks of least influence, none inside another; fewer where there are no more."""
    taken: list[Block] = []
    for influence in order:
        block = influence.block
        if len(taken) < count and not any(block.inside & other.inside for other in taken):
            taken.append(block)
    return tuple(taken)
