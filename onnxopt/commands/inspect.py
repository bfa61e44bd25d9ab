"""``inspect``: what a model is made of, and what could be done with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from onnxopt.commands.common import Source, open_data, open_model, workspace
from onnxopt.core.cost import Cost, cost
from onnxopt.core.io import data_files
from onnxopt.core.query import Model, graphs, input_specs, label, nodes, opset, output_specs
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.core.shapes import static_shapes
from onnxopt.errors import DataError
from onnxopt.quantization.dynamic import DYNAMIC
from onnxopt.quantization.select import place
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

__all__ = ["inspect"]

CONTROL_FLOW = ("If", "Loop", "Scan")


def inspect(path: Path, source: Source | None = None, *, target: Target | None = None) -> Report:
    """Inputs, outputs, operators, cost, opsets, control flow, and the placement of integer kernels with reasons.

    Raises:
        OnnxoptError: The model or the data cannot be used.
    """
    source, target = source or Source(samples=1), target or Target()
    model = open_model(path, target)
    figures, shapes, remarks = _costs(source, path, model, target)
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
        "dynamic": sum(1 for node in placement.nodes if node.op_type in DYNAMIC),
        "macs_share": placed_macs / max(figures.total_macs, 1),
    }
    summary = f"{facts['nodes']} nodes, {figures.params:,} parameters, {size_bytes / 1e6:.2f} MB"
    return Report(
        command="inspect",
        verdict=Verdict(Status.PASS, f"{path.name}: {summary}, {len(placement.nodes)} nodes can run on integers"),
        data={
            "facts": facts,
            "inputs": [str(s) for s in input_specs(model)],
            "outputs": [str(s) for s in output_specs(model)],
            "ops": dict(ops.most_common()),
            "input_shapes": {name: list(shape) for name, shape in shapes.items()},
            "quantizable": quantizable,
        },
        tables=(
            Table("Signature", ("", "value"), _signature(model)),
            Table("Model", ("", ""), tuple((key, _text(value)) for key, value in facts.items())),
            Table("Operators", ("operator", "nodes", "integer kernel (static)"), _operators(ops, kinds)),
        ),
        notes=(*(Note(n.node, "stays float", n.reason) for n in placement.notes), *remarks),
    )


def _costs(
    source: Source, path: Path, model: Model, target: Target
) -> tuple[Cost, dict[str, tuple[int, ...]], tuple[Note, ...]]:
    """The cost on the user's data, on made-up ones, or as far as the model states its shapes; and the input shapes.

    Raises:
        DataError: The user's data do not fit.
    """
    try:
        feeds = open_data(source, path, model, target)[0].feeds
    except DataError as error:
        if source.path is not None:
            raise
        stated = {s.name: s.shape for s in input_specs(model) if s.shape is not None}
        shapes = {n: tuple(d for d in shape if isinstance(d, int)) for n, shape in stated.items()}
        known = {n: shape for n, shape in shapes.items() if len(shape) == len(stated[n])}
        return cost(model, static_shapes(model, known)), known, (Note("inputs", "unknown", error.what),)
    with workspace() as folder:
        figures = cost(model, observed_shapes(model, feeds, target, folder))
    return figures, {name: array.shape for name, array in feeds.items()}, ()


def _signature(model: Model) -> tuple[tuple[str, str], ...]:
    inputs = [("input", str(s)) for s in input_specs(model)]
    return tuple([*inputs, *(("output", str(s)) for s in output_specs(model))])


def _operators(ops: Counter[str], kinds: Counter[str]) -> tuple[tuple[str, int, int | None], ...]:
    return tuple((name, count, kinds.get(name)) for name, count in ops.most_common())


def _text(value: JSON) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
