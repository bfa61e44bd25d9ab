"""``inspect``: what a model is made of, and what could be done with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from onnxopt.commands.common import Source, first_feeds, open_data, open_model, workspace
from onnxopt.commands.inspect_prune import Cuts, plan_cuts
from onnxopt.commands.inspect_quantize import Plan, plan_quantization
from onnxopt.commands.profile_tables import Profiling, profile_models
from onnxopt.core.cost import cost
from onnxopt.core.io import data_files
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import Model, graphs, input_specs, label, nodes, opset, output_specs
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.core.shapes import static_shapes
from onnxopt.errors import DataError, UsageError
from onnxopt.quantization.dynamic import DYNAMIC, dynamic_reason
from onnxopt.quantization.patterns import excluded
from onnxopt.quantization.select import place
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

__all__ = ["inspect"]

Shape: TypeAlias = tuple[int, ...]
CONTROL_FLOW = ("If", "Loop", "Scan")


def inspect(
    path: Path,
    source: Source | None = None,
    *,
    target: Target | None = None,
    with_profile: bool = False,
    with_quantization: bool = False,
    with_pruning: bool = False,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Inputs, outputs, operators, cost, opsets, control flow, and the placement of integer kernels with reasons.

    With ``with_profile`` also the time of each kernel and node on the target; with ``with_quantization`` what static
    quantization makes of each node that computes, and with data what that costs and gains; with ``with_pruning`` the
    groups of channels that could be cut.

    Raises:
        UsageError: A pattern of ``exclude`` matches no node, or there is nothing to exclude nodes from.
        OnnxoptError: The model or the data cannot be used.
    """
    source, target = source or Source(samples=1), target or Target()
    if exclude and not with_quantization:
        raise UsageError(
            "nodes are excluded from quantization, which was not asked for",
            where=f"onnxopt inspect {path.name} --exclude",
            fix="add --quantize",
        )
    model = open_model(path, target)
    excluded(nodes(model), exclude)
    shapes, inputs, remarks = _shapes(source, path, model, target)
    figures = cost(model, shapes)
    ops = Counter(node.op_type if not node.domain else f"{node.domain}.{node.op_type}" for node in nodes(model))
    placement = place(model)
    size_bytes = sum(f.stat().st_size for f in data_files(path))
    facts: dict[str, JSON] = {
        "opset": opset(model),
        "opsets": {domain or "ai.onnx": version for domain, version in model.graph.opset_imports.items()},
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name or ''} {model.producer_version or ''}".strip(),
        "nodes": sum(ops.values()),
        "graphs": sum(1 for _ in graphs(model)),
        "functions": len(model.functions),
        "control_flow": sum(ops[name] for name in CONTROL_FLOW),
        "params": figures.params,
        "weight_bytes": figures.weight_bytes,
        "file_bytes": size_bytes,
        "macs": figures.total_macs,
        "macs_unknown_nodes": len(figures.unknown),
    }
    kinds = Counter(node.op_type for node in placement.nodes)
    placed_macs = sum(figures.macs.get(name, 0) for name in {label(n) for n in placement.nodes})
    quantizable: dict[str, JSON] = {
        "static": dict(sorted(kinds.items())),
        "dynamic": sum(1 for n in nodes(model) if n.op_type in DYNAMIC and not n.domain and dynamic_reason(n) is None),
        "macs_share": placed_macs / max(figures.total_macs, 1),
    }
    profiled = Profiling({}, (), ())
    if with_profile:
        feeds = first_feeds(open_data(source, path, model, target))
        profiled = profile_models({path.name: path}, feeds, target, progress=progress)
    plan = Plan({}, (), ())
    if with_quantization:
        data = None if source.path is None else open_data(source, path, model, target)
        shown = progress or SilentProgress()
        plan = plan_quantization(model, path, data, exclude, target=target, seed=source.seed, progress=shown)
    cuts = Cuts({}, (), ())
    if with_pruning:
        shown = progress or SilentProgress()
        cuts = plan_cuts(model, path, open_data(source, path, model, target)[0].feeds, target, shown)
    summary = f"{facts['nodes']} nodes, {figures.params:,} parameters, {size_bytes / 1e6:.2f} MB"
    return Report(
        command="inspect",
        verdict=Verdict(Status.PASS, f"{path.name}: {summary}, {len(placement.nodes)} nodes can run on integers"),
        data={
            "facts": facts,
            "inputs": [str(s) for s in input_specs(model)],
            "outputs": [str(s) for s in output_specs(model)],
            "ops": dict(ops.most_common()),
            "input_shapes": {name: list(shape) for name, shape in inputs.items()},
            "quantizable": quantizable,
            **profiled.data,
            **plan.data,
            **cuts.data,
        },
        tables=(
            Table("Signature", ("", "value"), _signature(model)),
            Table("Model", ("", ""), tuple((key, _text(value)) for key, value in facts.items())),
            Table("Operators", ("operator", "nodes", "integer kernel (static)"), _operators(ops, kinds)),
            *profiled.tables,
            *plan.tables,
            *cuts.tables,
        ),
        notes=(
            *(Note(n.node, "stays float", n.reason) for n in placement.notes),
            *remarks,
            *profiled.notes,
            *plan.notes,
            *cuts.notes,
        ),
    )


def _shapes(
    source: Source, path: Path, model: Model, target: Target
) -> tuple[dict[str, Shape], dict[str, Shape], tuple[Note, ...]]:
    """Shapes of all values and of the inputs: on the user's data, on made-up ones, or as far as the model states them.

    Raises:
        DataError: The user's data do not fit.
    """
    try:
        feeds = open_data(source, path, model, target)[0].feeds
    except DataError as error:
        if source.path is not None:
            raise
        fixed = {s.name: tuple(d for d in s.shape or () if isinstance(d, int)) for s in input_specs(model)}
        known = {s.name: fixed[s.name] for s in input_specs(model) if s.shape is not None and s.shape == fixed[s.name]}
        return static_shapes(model, known), known, (Note("inputs", "unknown", error.what),)
    with workspace() as folder:
        shapes = observed_shapes(model, feeds, target, folder)
    return shapes, {name: array.shape for name, array in feeds.items()}, ()


def _signature(model: Model) -> tuple[tuple[str, str], ...]:
    inputs = [("input", str(s)) for s in input_specs(model)]
    return tuple([*inputs, *(("output", str(s)) for s in output_specs(model))])


def _operators(ops: Counter[str], kinds: Counter[str]) -> tuple[tuple[str, int, int | None], ...]:
    return tuple((name, count, kinds.get(name)) for name, count in ops.most_common())


def _text(value: JSON) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
