"""The graph of a cascade: the next member runs only for items on which the mean of those so far is not sure.

After each member the running mean of probabilities answers where it is sure enough (``exits``). Where the batch is
fixed to 1 the rest is in the branch of an ``If``; where it is free, the branch gathers the undecided items, runs the
next member on these and scatters its answers back. The branch is not taken when all are decided, so no kernel ever
sees an empty batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.edit import Editor
from onnxopt.core.query import Model
from onnxopt.errors import UsageError
from onnxopt.merging.align import Alignment
from onnxopt.merging.combine import Joined, finish, graft, imports_of, spec_value
from onnxopt.merging.exits import Exits
from onnxopt.merging.trunk import Shared, share_work
from onnxopt.merging.written import output_spec

__all__ = ["build_cascade", "check_batch"]


def check_batch(alignment: Alignment) -> bool:
    """Whether the batch is fixed to 1.

    Raises:
        UsageError: It is fixed to more.
    """
    first = alignment.inputs[0].shape
    batch = first[0] if first else None
    if isinstance(batch, int) and batch != 1:
        raise UsageError(
            f"a cascade runs single items, and the batch of the members is fixed to {batch}",
            where="--strategy cascade",
            fix="export them with a batch of 1 or a free one",
        )
    return batch == 1


def build_cascade(alignment: Alignment, exits: Exits) -> tuple[Model, Shared]:
    """The cascade as one model.

    Raises:
        UsageError: The batch is fixed to more than 1.
    """
    is_single = check_batch(alignment)
    inputs = [spec_value(spec) for spec in alignment.inputs]
    members = alignment.members
    graph = ir.Graph(inputs, [], nodes=[], opset_imports=imports_of(members), name="cascade")
    model = ir.Model(graph, ir_version=max(m.model.ir_version for m in members), producer_name="onnxopt")
    editor = Editor(model)
    batched = {s.name for s in alignment.inputs if s.shape and not isinstance(s.shape[0], int)}
    builder = _Builder(alignment, exits, model, editor, batched, is_single=is_single)
    named = {value.name or "": value for value in inputs}
    total = builder.member(graph, 0, named)
    output = builder.rest(graph, named, total, 1)
    spec = output_spec(alignment)
    kind = spec_value(spec).dtype
    if kind is not None and kind != ir.DataType.FLOAT:
        output = Drawing(editor, graph, "cascade").op("Cast", output, to=int(kind))
    return share_work(finish(Joined(model, editor, ()), output, spec))


@dataclass(frozen=True)
class _Builder:
    alignment: Alignment
    exits: Exits
    model: Model
    editor: Editor
    batched: set[str]
    is_single: bool

    def member(self, graph: ir.Graph, stage: int, inputs: Mapping[str, ir.Value]) -> ir.Value:
        """Probabilities of the member of that stage, computed in ``graph``."""
        member = self.alignment.members[self.exits.order[stage]]
        value = graft(self.model, self.editor, member, inputs, into=graph)
        found = self.exits.forms[stage].draw(Drawing(self.editor, graph, "cascade"), value)
        if found.dtype == ir.DataType.DOUBLE:
            found = Drawing(self.editor, graph, "cascade").op("Cast", found, to=int(ir.DataType.FLOAT))
        return found

    def rest(self, graph: ir.Graph, inputs: Mapping[str, ir.Value], total: ir.Value, stage: int) -> ir.Value:
        """The answer in ``graph``, where ``stage`` members have added up to ``total``."""
        drawing = Drawing(self.editor, graph, "cascade")
        mean = total if stage == 1 else drawing.op("Mul", total, drawing.constant(1 / stage))
        if stage == len(self.exits.order):
            return mean
        confidence, threshold = self._confidence(drawing, mean), self.exits.limits[stage - 1]
        undecided = drawing.op("Less", confidence, drawing.constant(threshold))
        if self.is_single:
            condition = drawing.op("Reshape", undecided, drawing.constant(np.zeros(0, np.int64)))
        else:
            number = drawing.op("Cast", undecided, to=int(ir.DataType.INT32))
            some = drawing.reduce("ReduceMax", number, 0)
            condition = drawing.op("Cast", some, to=int(ir.DataType.BOOL))
        return drawing.op(
            "If",
            condition,
            then_branch=self._further(inputs, total, mean, undecided, stage),
            else_branch=self._branch(mean),
        )

    def _confidence(self, drawing: Drawing, mean: ir.Value) -> ir.Value:
        """What ``Exits.confidence`` computes, ``(n,)``."""
        flat = drawing.op("Flatten", mean, axis=1)
        if self.exits.is_sides:
            other = drawing.op("Sub", drawing.constant(1.0), flat)
            return drawing.reduce("ReduceMin", drawing.op("Max", flat, other), 1)
        if self.exits.measure == "probability":
            return drawing.reduce("ReduceMax", flat, 1)
        first_two, _ = drawing.ops("TopK", flat, drawing.constant([2]), outputs=2, axis=1)
        return drawing.op("MatMul", first_two, drawing.constant([1.0, -1.0]))

    def _branch(self, value: ir.Value) -> ir.Graph:
        graph = ir.Graph([], [], nodes=[], name=self.editor.fresh_name("decided"))
        graph.outputs.append(Drawing(self.editor, graph, "decided").op("Identity", value))
        return graph

    def _further(
        self, inputs: Mapping[str, ir.Value], total: ir.Value, mean: ir.Value, undecided: ir.Value, stage: int
    ) -> ir.Graph:
        graph = ir.Graph([], [], nodes=[], name=self.editor.fresh_name("undecided"))
        drawing = Drawing(self.editor, graph, "undecided")
        if self.is_single:
            added = drawing.op("Add", total, self.member(graph, stage, inputs))
            graph.outputs.append(self._own(drawing, self.rest(graph, inputs, added, stage + 1)))
            return graph
        places = drawing.op("Squeeze", drawing.op("NonZero", undecided), drawing.constant([0]))
        own = {
            name: drawing.op("Gather", value, places, axis=0) if name in self.batched else value
            for name, value in inputs.items()
        }
        added = drawing.op("Add", drawing.op("Gather", total, places, axis=0), self.member(graph, stage, own))
        answers = self.rest(graph, own, added, stage + 1)
        rows = drawing.op("Unsqueeze", places, drawing.constant([1]))
        graph.outputs.append(drawing.op("ScatterND", mean, rows, answers))
        return graph

    def _own(self, drawing: Drawing, value: ir.Value) -> ir.Value:
        """A value that ``graph`` itself computes: what a branch gives cannot come from outside."""
        return value if value.graph is drawing.graph else drawing.op("Identity", value)
