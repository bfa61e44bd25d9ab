"""A model run stage by stage over many samples, so that weights can be changed between the stages.

What is alive between two stages (produced before, read after) is kept for every sample, in 16 bits where that is much,
so that each node runs once, on all cores: nothing is measured here. Two streams go through the same stages: one with
the original weights, one with the changed ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import nested_graphs
from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context
from onnxopt.pruning.surgery import with_values
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import all_cores

__all__ = ["HELD_OUT", "MOST_PLACES", "PLACES", "VECTORS_A_ROW", "Stage", "Stream", "side_by_side"]

PLACES = 100
"""Vectors of one call of one sample that enter, at least."""
MOST_PLACES = 512
VECTORS_A_ROW = 8
"""So many vectors are wanted for each row of a layer."""
HELD_OUT = 5
"""Every fifth sample judges what is fitted to the others."""
LIVE_BYTES = 600 << 20
"""Of what one stream keeps between stages."""
FEWEST = 8

LARGEST = 3e38
"""Numbers above this would be rounded to infinity."""
SHORT = np.dtype([("bfloat16", np.uint16)])


@dataclass(frozen=True, eq=False)
class Stage:
    """The nodes between two cuts of the main graph.

    Attributes:
        model: These nodes as a model; ``None``: there are none.
        inputs: Names of the values it reads.
        outputs: Names of the values it makes that are read later.
        live: Names of all computed values that are read later.
    """

    model: Model | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    live: frozenset[str]


def stages(model: Model, before: Sequence[ir.Node]) -> list[Stage]:
    """The stages that end in front of each of these nodes of the main graph, in graph order."""
    nodes = list(model.graph)
    place = {node: i for i, node in enumerate(nodes)}
    ends = [place[node] for node in before]
    last = _last_reads(nodes)
    found: list[Stage] = []
    start = 0
    live: set[ir.Value] = set()
    for end in ends:
        made = {v for node in nodes[start:end] for v in node.outputs if last.get(v, -1) >= end}
        kept = {v for v in live if last.get(v, -1) >= end}
        found.append(_stage(model, nodes[start:end], live, made, kept | made))
        live, start = kept | made, end
    return found


def side_by_side(
    model: Model, before: Sequence[ir.Node], shapes: Mapping[str, tuple[int, ...]], ctx: Context
) -> tuple[list[Stage], Stream, Stream]:
    """The stages in front of some nodes, and two streams over as many samples of ``ctx.data`` as fit into memory.

    Args:
        model: The model; it is not changed.
        before: Nodes of its main graph, in graph order.
        shapes: Shapes of its values in one call.
        ctx: Data, target, folder.
    """
    parts = stages(model, before)
    data = ctx.data or ()
    live = max(_live_bytes(parts, shapes), 1)
    room = max(LIVE_BYTES // live, FEWEST)
    feeds = [data[i].feeds for i in range(min(len(data), room))]
    short = 2 * live * len(feeds) > LIVE_BYTES
    ctx = replace(ctx, target=all_cores(ctx.target))
    return parts, Stream(feeds, ctx, short), Stream(feeds, ctx, short)


def _live_bytes(found: Sequence[Stage], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of what is kept for one sample, in 16 bits, at the worst cut."""
    return max((sum(2 * int(np.prod(shapes.get(name, (0,)))) for name in stage.live) for stage in found), default=0)


def _last_reads(nodes: Sequence[ir.Node]) -> dict[ir.Value, int]:
    """Place of the last node that reads each value, in its bodies too."""
    last: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        for value in _read(node):
            last[value] = index
    return last


def _read(node: ir.Node) -> list[ir.Value]:
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        for graph in nested_graphs(attribute):
            for inner in ir.traversal.RecursiveGraphIterator(graph):
                found += [value for value in inner.inputs if value is not None]
    return found


def _stage(
    model: Model, nodes: Sequence[ir.Node], live: set[ir.Value], made: set[ir.Value], after: set[ir.Value]
) -> Stage:
    names = frozenset(v.name or "" for v in after)
    outputs = [v for node in nodes for v in node.outputs if v in made]
    if not outputs:
        return Stage(None, (), (), names)
    fed = set(model.graph.inputs)
    read = dict.fromkeys(v for node in nodes for v in _read(node) if v in live or v in fed)
    inputs = [v for v in read if not v.is_initializer()]
    graph = ir.convenience.extract(model.graph, inputs, outputs)
    part = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    return Stage(part, tuple(v.name or "" for v in inputs), tuple(v.name or "" for v in outputs), names)


@dataclass
class Stream:
    """The live values of every sample; mutable because it moves through the stages.

    Attributes:
        feeds: Inputs of the model, one mapping a sample.
        ctx: Target and folder.
        short: Whether values are kept in 16 bits.
        values: Live values of each sample.
    """

    feeds: Sequence[Feeds]
    ctx: Context
    short: bool = True
    values: list[dict[str, Array]] = field(default_factory=list[dict[str, Array]])

    def advance(self, stage: Stage, weights: Mapping[str, Array]) -> None:
        """Runs a stage on every sample, with other values for some constants."""
        if not self.values:
            self.values = [{} for _ in self.feeds]
        session = None
        if stage.model is not None:
            path = self.ctx.workdir / "stage.onnx"
            save_scratch(with_values(stage.model, weights), path)
            session = open_session(path, self.ctx.target)
        for feeds, values in zip(self.feeds, self.values, strict=True):
            if session is not None:
                given = {n: _wide(values[n]) if n in values else feeds[n] for n in stage.inputs}
                made = session.run(given, list(stage.outputs))
                arrays = {name: np.asarray(array) for name, array in made.items()}
                values.update({name: _short(array) if self.short else array for name, array in arrays.items()})
            for name in [n for n in values if n not in stage.live]:
                del values[name]

    def has(self, index: int, name: str) -> bool:
        """Whether a value of a sample is live here."""
        return name in self.feeds[index] or (bool(self.values) and name in self.values[index])

    def value(self, index: int, name: str) -> Array:
        """A live value of a sample, or one of its inputs."""
        values = self.values[index] if self.values else {}
        return _wide(values[name]) if name in values else self.feeds[index][name]


def _short(array: Array) -> Array:
    """The upper 16 bits (bfloat16) of float32 numbers, rounded: five times as fast as float16 in numpy."""
    if array.dtype != np.float32 or not np.abs(array).max(initial=0.0) < LARGEST:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32) + np.uint32(0x8000)
    bits >>= 16
    return bits.astype(np.uint16).view(SHORT)


def _wide(array: Array) -> Array:
    if array.dtype != SHORT:
        return array
    bits = array.view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)
