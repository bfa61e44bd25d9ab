"""``prune --drop-blocks N``: a model without the residual branches that change least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxopt.commands.prune_report import Outcome
from onnxopt.core.cost import cost
from onnxopt.core.query import Model
from onnxopt.core.report import Note, Report, Status, Table, Verdict
from onnxopt.evaluate.compare import Scorer
from onnxopt.measurement.paired import compare_latency
from onnxopt.passes.base import Context
from onnxopt.pruning.branches import Influence, blocks, choose, influences
from onnxopt.pruning.costs import params_costs, widths
from onnxopt.pruning.depth import drop
from onnxopt.pruning.goals import Price, Tried
from onnxopt.pruning.layers import layers
from onnxopt.pruning.plan import Menu
from onnxopt.pruning.pruner import Pruner
from onnxopt.pruning.repair import with_biases
from onnxopt.pruning.structure import analyse
from onnxopt.run.session import Feeds

__all__ = ["influence_table", "shallow"]


def shallow(
    path: Path,
    clean: Model,
    shapes: Mapping[str, tuple[int, ...]],
    count: int,
    ctx: Context,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    keep: frozenset[str],
) -> tuple[Pruner, Outcome, Table] | Report:
    """The model without ``count`` blocks, measured; only a report where it has fewer.

    Args:
        path: The input model.
        clean: It, cleaned up.
        shapes: Shapes of the values of ``clean`` in one call.
        count: Blocks that go.
        ctx: Data to fit to, target, folder, seed.
        scorer: Judges on held-back samples.
        feeds: Inputs to check and to time on.
        keep: Labels of Adds whose branches stay.
    """
    full = with_biases(clean)
    structure = analyse(full, shapes)
    pruner = Pruner(full, path, shapes, structure, layers(full.graph, structure), (), Menu((), ()), ctx)
    order = influences(full, [block for block in blocks(full, shapes) if block.name not in keep], ctx)
    gone = choose(order, count)
    if len(gone) < count:
        reason = f"{path.name} has {len(gone)} residual branches that can go, not {count}"
        status = Status.FAIL if gone else Status.UNCHANGED
        notes = tuple(Note(i.block.name, "block", f"influence {i.value:.3g}") for i in order)
        return Report("prune", Verdict(status, reason), {"blocks": [i.block.name for i in order]}, notes=notes)
    made = drop(pruner, gone, f"without {count} blocks", scorer, feeds)
    latency = compare_latency(path, made.path, feeds, ctx.target, seed=ctx.seed, progress=ctx.progress)
    before, after = cost(full, shapes).params, cost(made.model, shapes).params
    kept = widths(structure.groups)
    tried = Tried(made.name, kept, after / max(before, 1), made)
    outcome = Outcome(tried, (tried,), latency, Price("params", params_costs(structure), float(before), 0.0))
    return pruner, outcome, influence_table(order, made.dropped)


def influence_table(order: Sequence[Influence], dropped: Sequence[str]) -> Table:
    """The influence of each block, the lowest first."""
    rows = tuple((i.block.name, i.value, "dropped" if i.block.name in dropped else "") for i in order)
    return Table("Influence of the residual branches", ("branch ends at", "influence", ""), rows)
