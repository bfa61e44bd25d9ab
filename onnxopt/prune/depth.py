"""Residual branches that change little, and the model without them.

Source: ShortGPT, Men et al. 2024, https://arxiv.org/abs/2403.03853: the influence of a block is
``1 - mean cos(x_in, x_out)`` over the vectors of its input and output. A block here is one branch ``x + f(x)`` (the
attention or the MLP of a transformer, the Convs of a residual network), in post-norm networks with the norm behind it.

While layers are repaired the branch stays in the graph, behind a switch: ``Where(gone, x, x + f(x))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of
from onnxopt.core.io import save
from onnxopt.core.query import Model, label
from onnxopt.core.tensors import Array
from onnxopt.errors import VerificationError
from onnxopt.evaluate.compare import Scorer
from onnxopt.evaluate.verify import verify
from onnxopt.passes.base import Context
from onnxopt.passes.cleanup.unused import RemoveUnused
from onnxopt.passes.constants import is_op, single_reader, tensor_of
from onnxopt.prune.costs import widths
from onnxopt.prune.layers import layers
from onnxopt.prune.pruner import Pruned, Pruner, tolerance, with_weights
from onnxopt.prune.repair import Repaired, repair
from onnxopt.prune.structure import analyse
from onnxopt.prune.times import quick_ratio
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap

__all__ = ["Block", "Influence", "blocks", "choose", "drop", "fewest", "influences", "without"]

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention", "LSTM", "GRU")
NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


RTOL = 1e-4
"""Tolerated difference of the model without blocks and the one with their switches on: other kernels are fused."""


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


def drop(pruner: Pruner, gone: Sequence[Block], name: str, scorer: Scorer, feeds: Sequence[Feeds]) -> Pruned:
    """The model without some blocks, the layers behind them repaired, checked and judged.

    Args:
        pruner: The model.
        gone: Blocks that go.
        name: How they were chosen; also names the file.
        scorer: Judges on held-back samples.
        feeds: Inputs to check on.

    Raises:
        VerificationError: The model without the blocks is not the one whose switches are set.
    """
    switched, switches = _switched(pruner.model, gone)
    shapes = {**pruner.shapes, **{switch: (1,) for switch in switches}}
    shapes.update({made: pruner.shapes[end] for made, end in switches.values()})
    structure = analyse(switched, shapes)
    inside = frozenset[str]().union(*(block.inside for block in gone))
    found = [layer for layer in layers(switched.graph, structure) if layer.name not in inside]
    on: dict[str, Array] = {switch: np.ones(1, bool) for switch in switches}
    repaired = repair(switched, structure, found, (), shapes, pruner.ctx, changed=on)
    made = _made(pruner, gone, name, repaired, switched, on, scorer, feeds)
    plain = _made(pruner, gone, f"{name} plain", Repaired({}, 0, 0), switched, on, scorer, feeds)
    return made if made.sqnr_db >= plain.sqnr_db else plain


def _made(
    pruner: Pruner,
    gone: Sequence[Block],
    name: str,
    repaired: Repaired,
    switched: Model,
    on: Mapping[str, Array],
    scorer: Scorer,
    feeds: Sequence[Feeds],
) -> Pruned:
    ctx = pruner.ctx
    weights = {k: v for k, v in repaired.weights.items() if k not in on}
    small = without(with_weights(pruner.model, weights), gone, ctx)
    path, twin = ctx.workdir / f"{name}.onnx", ctx.workdir / "switched.onnx"
    save(small, path)
    save(with_weights(switched, {**weights, **on}), twin)
    try:
        verify(twin, path, feeds, ctx.target, rtol=max(tolerance(pruner.model), RTOL))
    except VerificationError as error:
        raise VerificationError(
            f"taking blocks out changed more than passing them by: {error.what}",
            where=f"{pruner.reference.name}, {error.where}",
            fix="nothing was written; report the model that shows it",
        ) from error
    kept = widths(pruner.structure.groups)
    dropped = tuple(block.name for block in gone)
    return Pruned(name, kept, path, small, repaired, scorer.compare(path), dropped)


def fewest(
    pruner: Pruner, order: Sequence[Influence], ratio: float, feeds: Sequence[Feeds]
) -> tuple[tuple[Block, ...], float] | None:
    """The fewest blocks without which the latency is at most ``ratio`` of the input's, and what it then is.

    ``None``: there are not enough blocks.
    """
    path = pruner.ctx.workdir / "shallow.onnx"

    def share(count: int) -> float:
        save(without(pruner.model, choose(order, count), pruner.ctx), path)
        return quick_ratio(pruner.reference, path, feeds, pruner.ctx.target)

    low, high = 1, len(choose(order, len(order)))
    least = share(high) if high else float("inf")
    if least > ratio:
        return None
    while low < high:
        middle = (low + high) // 2
        found = share(middle)
        if found <= ratio:
            high, least = middle, found
        else:
            low = middle + 1
    return choose(order, high), least


def without(model: Model, gone: Sequence[Block], ctx: Context) -> Model:
    """A copy in which what read the end of each block reads its start."""
    copy = model.clone()
    edit = Editor(copy)
    values = _values(copy)
    passed: dict[str, str] = {}
    for block in _in_order(copy, gone):
        start = block.start
        while start in passed:
            start = passed[start]
        edit.replace_value(values[block.end], values[start])
        passed[block.end] = start
    return RemoveUnused().run(copy, ctx).model


def _switched(model: Model, gone: Sequence[Block]) -> tuple[Model, dict[str, tuple[str, str]]]:
    """A copy with a switch behind each block, off; name of each switch -> what it makes, what it stands behind."""
    copy = model.clone()
    edit = Editor(copy)
    values = _values(copy)
    switches: dict[str, tuple[str, str]] = {}
    passed: dict[str, ir.Value] = {}
    for block in _in_order(copy, gone):
        start, end = values[block.start], values[block.end]
        producer = end.producer()
        if producer is None:
            continue
        switch = edit.add_constant("block_is_gone", np.zeros(1, bool), before=producer)
        inputs = [switch, passed.get(block.start, start), end]
        readers = list(end.uses())
        node = ir.Node("", "Where", inputs, num_outputs=1, name=edit.fresh_name("switch"))
        node.outputs[0].name = edit.fresh_name(f"{block.end}_switched")
        node.outputs[0].type, node.outputs[0].shape = end.type, end.shape
        graph_of(producer).insert_after(producer, node)
        for reader, index in readers:
            reader.replace_input_with(index, node.outputs[0])
        passed[block.end] = node.outputs[0]
        switches[switch.name or ""] = (node.outputs[0].name or "", block.end)
    return copy, switches


def _in_order(model: Model, gone: Sequence[Block]) -> list[Block]:
    place = {value.name: i for i, node in enumerate(model.graph) for value in node.outputs}
    return sorted(gone, key=lambda block: place[block.end])


def _values(model: Model) -> dict[str, ir.Value]:
    found = {value.name or "": value for value in model.graph.inputs}
    found.update({value.name or "": value for node in model.graph for value in node.outputs})
    return found
