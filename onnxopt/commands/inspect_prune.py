"""``inspect --prune``: units that can be cut, in groups; Convs that can become two; what stands in the way, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.commands.common import workspace
from onnxopt.core.progress import Progress
from onnxopt.core.query import Model
from onnxopt.core.report import JSON, Note, Table
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.pruning.costs import Costs, macs_costs, params_costs, widths
from onnxopt.pruning.factors import factors
from onnxopt.pruning.layers import layers
from onnxopt.pruning.structure import Structure, analyse
from onnxopt.run.session import Feeds
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

__all__ = ["Cuts", "plan_cuts", "prepared"]

FACTOR_COLUMNS = ("node", "weights", "rank of equal work")
COLUMNS = ("group", "operator", "units", "channels a unit", "params", "MACs", "made by", "read by")


@dataclass(frozen=True)
class Cuts:
    """What a report shows of it: figures, tables, notes."""

    data: Mapping[str, JSON]
    tables: tuple[Table, ...]
    notes: tuple[Note, ...]


def prepared(model: Model, path: Path, feeds: Feeds, ctx: Context) -> tuple[Model, dict[str, tuple[int, ...]]]:
    """The model as pruning takes it, local functions inlined and cleaned up, and the shapes of its values in one call.

    Raises:
        VerificationError: A clean-up broke the model.
    """
    passes = [create("inline-functions"), *map(create, OPTIMIZE)]
    clean, _ = run(model, passes, ctx, reference=path, rounds=ROUNDS)
    return clean, observed_shapes(clean, feeds, ctx.target, ctx.workdir)


def plan_cuts(model: Model, path: Path, feeds: Feeds, target: Target, progress: Progress) -> Cuts:
    """The structure of a model.

    Args:
        model: The model in ``path``; it is not changed.
        path: Its file.
        feeds: Inputs that it runs on.
        target: Where it runs.
        progress: Told of each step.
    """
    with workspace() as folder:
        clean, shapes = prepared(model, path, feeds, Context(folder, None, target, progress=progress))
    structure = analyse(clean, shapes)
    params, macs = params_costs(structure), macs_costs(clean, structure, shapes)
    rows = [
        (
            group.name,
            group.makers[0].node.op_type,
            len(group.units),
            max(len(slot.ids) // len(set(structure.positions(slot).tolist())) for slot in group.slots),
            round(_saved(params, structure, index)),
            round(_saved(macs, structure, index)),
            len(group.makers),
            len(group.readers),
        )
        for index, group in enumerate(structure.groups)
    ]
    two = [
        (factor.layer.name, "x".join(map(str, factor.shape)), factor.full)
        for factor in factors(layers(clean.graph, structure), shapes, ())
    ]
    barriers = tuple((note.node, note.reason) for note in structure.barriers)
    tables = [Table("Units that can be cut", COLUMNS, tuple(rows))]
    if two:
        tables.append(Table("Convs that can become two", FACTOR_COLUMNS, tuple(two)))
    if barriers:
        tables.append(Table("What keeps channels from being cut", ("node", "reason"), barriers))
    data: dict[str, JSON] = {
        "prunable": [dict(zip((c.replace(" ", "_") for c in COLUMNS), row, strict=True)) for row in rows],
        "factors": [dict(zip(("node", "weights", "even_rank"), row, strict=True)) for row in two],
        "prune_barriers": [{"node": node, "reason": reason} for node, reason in barriers],
    }
    return Cuts(data, tuple(tables), structure.barriers)


def _saved(costs: Costs, structure: Structure, group: int) -> float:
    """What goes when a whole group goes, all others being whole."""
    full = widths(structure.groups)
    without = full.copy()
    without[group] = 0
    both = costs(np.stack([full, without]))
    return float(both[0] - both[1])
