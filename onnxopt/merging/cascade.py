"""Members in order of cost; the next one runs only for items on which the mean of those so far is not sure.

After each member the running mean of probabilities answers where its largest class reaches the threshold. Where the
batch is fixed to 1 the rest is in the branch of an ``If``; where it is free, the branch gathers the undecided items,
runs the next member on these and scatters its answers back. The branch is not taken when all are decided, so no kernel
ever sees an empty batch. Source: Wang et al., "Wisdom of Committees" (ICLR 2022).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.edit import Editor
from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.errors import DataError, UsageError
from onnxopt.merging.align import Alignment
from onnxopt.merging.calls import Calls
from onnxopt.merging.combine import Joined, finish, graft, imports_of, spec_value
from onnxopt.merging.forms import Form, Task
from onnxopt.merging.strategies import Cascade
from onnxopt.merging.trunk import Shared, share_work
from onnxopt.merging.written import output_spec

__all__ = ["Exits", "build_cascade", "choose_exits"]

CANDIDATES = 64
"""Thresholds that are tried, evenly spaced among the confidences that occur."""
LABELS = 0.25
"""Their part in the loss: half costs 6 points more of the members, none loses 0.55 instead of 0.37 points."""


@dataclass(frozen=True)
class Exits:
    """Which member runs when.

    Attributes:
        order: Places of the members, cheap ones first.
        forms: How the output of each of these becomes probabilities.
        threshold: The confidence that ends it.
        costs: Share of the cost of all members that each of these takes.
        is_sides: Outputs say yes or no: the confidence is that of the likelier side.
    """

    order: tuple[int, ...]
    forms: tuple[Form, ...]
    threshold: float
    costs: tuple[float, ...]
    is_sides: bool

    def run(self, outputs: Sequence[Array]) -> tuple[Array, Array]:
        """The answers, and the number of members that each took, from the outputs of all members."""
        brought = [form.compute(outputs[k]) for k, form in zip(self.order, self.forms, strict=True)]
        total = np.zeros_like(brought[0])
        open_ = np.ones(len(total), bool)
        used = np.zeros(len(total), np.int64)
        answers = np.zeros_like(total)
        for count, probabilities in enumerate(brought, 1):
            total[open_] += probabilities[open_]
            used[open_] = count
            answers[open_] = total[open_] / count
            open_ &= self.confidence(answers) < self.threshold
        return answers, used

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The answers alone."""
        return self.run(outputs)[0]

    def confidence(self, answers: Array) -> Array:
        """The probability of the likeliest answer of each item."""
        flat = answers.reshape(len(answers), -1)
        return np.maximum(flat, 1 - flat).min(axis=1) if self.is_sides else flat.max(axis=1)

    def cost(self, used: Array) -> float:
        """The mean share of the cost of all members."""
        return float(np.cumsum(self.costs)[used - 1].mean())


def choose_exits(
    strategy: Cascade, task: Task, forms: Sequence[Form], costs: Sequence[float], calls: Calls
) -> tuple[Exits, dict[str, float]]:
    """The exits with the lowest threshold that keeps the goal, and what they cost and lose on these calls.

    The loss of an item is how much less probable, to all members together, its answer is than theirs (and with labels
    for a quarter the change in being right, which is noisier but sees what all members together get wrong).
    The goal is kept by its upper confidence bound: ``mean + z s / sqrt(n) <= max_drop``.

    Raises:
        UsageError: The outputs are values, or maps.
        DataError: The data have too few items.
    """
    if task.kind == "values":
        raise UsageError(
            "a cascade needs a confidence, and the outputs are values", where="--strategy cascade", fix="use weighted"
        )
    shape = calls.outputs[0][0].shape
    if task.kind == "classes" and sum(n > 1 for n in shape[1:]) > 1:
        raise UsageError(
            f"a cascade decides by item, and an item of the output {list(shape)} has many answers",
            where="--strategy cascade",
            fix="use average or weighted for maps",
        )
    order = tuple(int(k) for k in np.argsort(np.asarray(costs), kind="stable"))
    start = Exits(order, tuple(forms[k] for k in order), 1.0, tuple(costs[k] for k in order), task.kind == "sides")
    if strategy.threshold is not None:
        return _at(start, strategy.threshold), {}
    table = [np.concatenate([call[k] for call in calls.outputs]) for k in range(len(forms))]
    labels = None if calls.labels is None else np.concatenate([np.ravel(t) for t in calls.labels])
    full = _at(start, 2.0).compute(table)
    confidences = [start.confidence(_at(start, 2.0, stage).compute(table)) for stage in range(1, len(order))]
    tried = _between(np.concatenate(confidences))
    best, figures = _at(start, tried[-1]), dict[str, float]()
    for threshold in tried:
        exits = _at(start, threshold)
        answers, used = exits.run(table)
        share, bound = exits.cost(used), _bound(full, answers, labels, strategy.confidence, is_sides=start.is_sides)
        if (strategy.max_cost is None and bound <= strategy.max_drop) or (
            strategy.max_cost is not None and share <= strategy.max_cost
        ):
            best, figures = exits, {"cost": share, "drop_bound": bound}
            if strategy.max_cost is None:
                break
    if not figures:
        if strategy.max_cost is not None:
            raise UsageError(
                f"no threshold costs {strategy.max_cost:g} of all members: the first takes {start.costs[0]:.3g}",
                where="--max-cost",
                fix="give more, or a cheaper first member",
            )
        answers, used = best.run(table)
        figures = {
            "cost": best.cost(used),
            "drop_bound": _bound(full, answers, labels, strategy.confidence, is_sides=start.is_sides),
        }
    return best, figures


def _at(exits: Exits, threshold: float, stages: int | None = None) -> Exits:
    count = len(exits.order) if stages is None else stages
    return Exits(exits.order[:count], exits.forms[:count], threshold, exits.costs[:count], exits.is_sides)


def _between(confidences: Array) -> list[float]:
    """Thresholds between confidences that occur, so that rounding decides no item; the last is above all."""
    found = np.unique(confidences)
    if len(found) < 2:
        raise DataError(
            "the data are too few to choose a threshold by", where="--data", fix="give more, or --threshold"
        )
    middle = (found[1:] + found[:-1]) / 2
    wide = middle[(found[1:] - found[:-1]) > 1e-5]
    places = np.linspace(0, len(wide) - 1, min(CANDIDATES, len(wide))).astype(np.int64)
    return [*(float(t) for t in np.unique(wide[places])), 2.0] if len(wide) else [2.0]


def _bound(full: Array, answers: Array, labels: Array | None, confidence: float, *, is_sides: bool) -> float:
    """Upper confidence bound of how much less accurate the answers are than those of all members together."""
    first, second = full.reshape(len(full), -1), answers.reshape(len(full), -1)
    if is_sides:
        first, second = (np.concatenate([1 - p[:, :1], p[:, :1]], axis=1) for p in (first, second))
    rows = np.arange(len(first))
    own, other = first.argmax(axis=1), second.argmax(axis=1)
    losses = first[rows, own] - first[rows, other]
    if labels is not None and len(labels) == len(losses):
        changes = (own == labels).astype(np.float64) - (other == labels)
        losses = (1 - LABELS) * losses + LABELS * changes
    z = statistics.NormalDist().inv_cdf(confidence)
    return float(losses.mean() + z * losses.std() / np.sqrt(len(losses)))


def build_cascade(alignment: Alignment, exits: Exits) -> tuple[Model, Shared]:
    """The cascade as one model.

    Raises:
        UsageError: The batch is fixed to more than 1.
    """
    first = alignment.inputs[0].shape
    batch = first[0] if first else None
    if isinstance(batch, int) and batch != 1:
        raise UsageError(
            f"a cascade runs single items, and the batch of the members is fixed to {batch}",
            where="--strategy cascade",
            fix="export them with a batch of 1 or a free one",
        )
    inputs = [spec_value(spec) for spec in alignment.inputs]
    members = alignment.members
    graph = ir.Graph(inputs, [], nodes=[], opset_imports=imports_of(members), name="cascade")
    model = ir.Model(graph, ir_version=max(m.model.ir_version for m in members), producer_name="onnxopt")
    editor = Editor(model)
    batched = {s.name for s in alignment.inputs if s.shape and not isinstance(s.shape[0], int)}
    builder = _Builder(alignment, exits, model, editor, batched, is_single=batch == 1)
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
        flat = drawing.op("Flatten", mean, axis=1)
        if self.exits.is_sides:
            other = drawing.op("Sub", drawing.constant(1.0), flat)
            confidence = drawing.reduce("ReduceMin", drawing.op("Max", flat, other), 1)
        else:
            confidence = drawing.reduce("ReduceMax", flat, 1)
        undecided = drawing.op("Less", confidence, drawing.constant(self.exits.threshold))
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
