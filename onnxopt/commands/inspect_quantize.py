"""``inspect --quantize``: which nodes would run on integers, which stay float and why; with data, what each costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxopt.commands.common import first_feeds, workspace
from onnxopt.commands.quantize_data import CALIBRATION_SAMPLES
from onnxopt.core.progress import Progress
from onnxopt.core.query import Model, label, nodes
from onnxopt.core.report import JSON, Note, Table
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import ModelError
from onnxopt.measurement.attribution import COMPUTE_OPS
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.dynamic import dynamic_reason
from onnxopt.quantization.existing import is_integer
from onnxopt.quantization.patterns import excluded, matching
from onnxopt.quantization.search.gains import gains
from onnxopt.quantization.search.restore import Group, rank
from onnxopt.quantization.select import place
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["Plan", "plan_quantization"]

"""As many as ``quantize`` calibrates on."""
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
PLACED = ("node", "operator", "runs on", "why float")
MEASURED = ("node", "operator", "runs on", "SQNR dB alone", "together with", "gain ms", "why float")


@dataclass(frozen=True)
class Plan:
    """What a report shows of it: figures, tables, notes."""

    data: Mapping[str, JSON]
    tables: tuple[Table, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class _Row:
    """One node. Without ``group`` it was not measured, or is not quantized."""

    node: str
    op: str
    runs_on: str
    reason: str
    group: Group | None = None
    gain_ms: float | None = None


def plan_quantization(
    model: Model,
    path: Path,
    data: Dataset | None,
    exclude: Sequence[str],
    *,
    target: Target,
    seed: int,
    progress: Progress,
) -> Plan:
    """What static quantization makes of each node that computes.

    Args:
        model: The model in ``path``; it is not changed. Clean-ups run on a copy, as they do in ``quantize``.
        path: Its file.
        data: Samples to measure on; ``None``: placement and reasons only.
        exclude: Patterns of node names, or op types, that stay float.
        target: Where the model is to run.
        seed: Seed of the choice of samples.
        progress: Told of each step.

    Raises:
        UsageError: An exclusion pattern matches no node.
        OnnxoptError: The model or the data cannot be used.
    """
    excluded(nodes(model), exclude)
    fitted, judged = (None, None) if data is None else split(data, calibration=CALIBRATION_SAMPLES, seed=seed)
    with workspace() as folder:
        ctx = Context(folder, fitted, target, seed, progress)
        clean, _ = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path, rounds=ROUNDS)
        item = StaticQuantize(tuple(p for p in exclude if matching(nodes(clean), p)))
        rows, notes = _placed(clean, item), list[Note]()
        if fitted is not None and judged is not None and any(row.runs_on == "integers" for row in rows):
            feeds = first_feeds(judged)
            declined = {n.node: n.reason for n in item.run(clean.clone(), ctx).notes}
            gains_ms, note = _gains(clean, item, feeds, ctx)
            notes += [] if note is None else [note]
            groups = {name: group for group in rank(clean, item, feeds, gains_ms, ctx) for name in group.nodes}
            rows = [_measured(row, declined, groups, gains_ms) for row in rows]
    rows.sort(key=lambda r: (r.runs_on != "integers", -(r.group.error if r.group else 0.0)))
    kinds = [row.runs_on for row in rows]
    title = f"Static quantization: {kinds.count('integers')} of {len(rows)} nodes that compute run on integers"
    table = Table(title, PLACED, tuple((row.node, row.op, row.runs_on, row.reason) for row in rows))
    if any(row.group is not None for row in rows):
        table = Table(title, MEASURED, tuple(_cells(row) for row in rows))
    return Plan({"quantization": [_json(row) for row in rows]}, (table,), tuple(notes))


def _placed(model: Model, item: StaticQuantize) -> list[_Row]:
    skip = dict.fromkeys(excluded(nodes(model), item.exclude), "excluded")
    placement = place(model, skip)
    integer = set(placement.nodes)
    reasons = {note.node: note.reason for note in placement.notes}
    found: list[_Row] = []
    for node in nodes(model):
        if node.op_type not in COMPUTE_OPS - CONTROL_FLOW and not is_integer(node):
            continue
        if node in integer:
            found.append(_Row(label(node), node.op_type, "integers", ""))
        elif is_integer(node):
            found.append(_Row(label(node), node.op_type, "integers already", "as it is in the file"))
        else:
            found.append(_float_row(node, reasons.get(label(node))))
    return found


def _float_row(node: ir.Node, reason: str | None) -> _Row:
    why = reason or f"ONNX Runtime has no static integer kernel for {node.op_type}"
    dynamic = node.domain == "" and reason != "excluded" and dynamic_reason(node) is None
    return _Row(label(node), node.op_type, "float", f"{why} (dynamic quantization does)" if dynamic else why)


def _gains(
    model: Model, item: StaticQuantize, feeds: Sequence[Feeds], ctx: Context
) -> tuple[dict[str, float], Note | None]:
    """The gain of each node, or why it is not known."""
    try:
        return gains(model, item, feeds, ctx), None
    except ModelError as error:
        return {}, Note("gains", "not measured", error.what)


def _measured(
    row: _Row, declined: Mapping[str, str], groups: Mapping[str, Group], gains_ms: Mapping[str, float]
) -> _Row:
    """The row with what was measured, or float after all: its values are not finite on the data."""
    if row.runs_on != "integers":
        return row
    if row.node in declined:
        return _Row(row.node, row.op, "float", declined[row.node])
    return _Row(row.node, row.op, row.runs_on, row.reason, groups.get(row.node), gains_ms.get(row.node))


def _sqnr_db(group: Group | None) -> float | None:
    if group is None:
        return None
    return -10 * math.log10(group.error) if group.error > 0 else math.inf


def _cells(row: _Row) -> tuple[str, str, str, float | None, str, float | None, str]:
    others = len(row.group.nodes) - 1 if row.group else 0
    together = f"{others} others: {row.group.nodes[0]} .." if row.group and others else ""
    return row.node, row.op, row.runs_on, _sqnr_db(row.group), together, row.gain_ms, row.reason


def _json(row: _Row) -> JSON:
    sqnr_db = _sqnr_db(row.group)
    return {
        "node": row.node,
        "op": row.op,
        "runs_on": row.runs_on,
        "reason": row.reason or None,
        "group": list(row.group.nodes) if row.group else None,
        "error": row.group.error if row.group else None,
        "sqnr_db": sqnr_db if sqnr_db is None or math.isfinite(sqnr_db) else None,
        "gain_ms": row.gain_ms,
    }
