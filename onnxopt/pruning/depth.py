"""The model without some residual branches, the layers behind them repaired.

While layers are repaired the branch stays in the graph, behind a switch: ``Where(gone, x, x + f(x))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of
from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.errors import VerificationError
from onnxopt.evaluate.compare import Scorer
from onnxopt.evaluate.verify import verify
from onnxopt.passes.base import Context
from onnxopt.passes.cleanup.unused import RemoveUnused
from onnxopt.pruning.branches import Block
from onnxopt.pruning.costs import widths
from onnxopt.pruning.layers import layers
from onnxopt.pruning.pruner import Pruned, Pruner, tolerance
from onnxopt.pruning.repair import Repaired, repair
from onnxopt.pruning.structure import analyse
from onnxopt.pruning.surgery import with_values
from onnxopt.run.session import Feeds

__all__ = ["drop", "without"]

RTOL = 1e-4
"""Tolerated difference of the model without blocks and the one with their switches on: other kernels are fused."""


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
    small = without(with_values(pruner.model, weights), gone, ctx)
    path, twin = ctx.workdir / f"{name}.onnx", ctx.workdir / "switched.onnx"
    save_scratch(small, path)
    save_scratch(with_values(switched, {**weights, **on}), twin)
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
