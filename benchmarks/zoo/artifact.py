"""The files of one zoo entry: model, calibration data, evaluation data and `info.json`.

A builder writes into a fresh folder and returns an `Entry`; the model is then scored on its
evaluation data with ONNX Runtime. Samples lie in `<split>.npz` (first axis = samples) or in a
folder `<split>/` of `.npz` (one clip or batch each).
"""

import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import torch
from onnx import numpy_helper

Arrays = Mapping[str, np.ndarray]

LABELS = "labels"
OPSET = 18
TOLERANCE = 1e-4
BATCH_SIZE = 32


@dataclass(frozen=True)
class Entry:
    """What a builder says about the files it wrote.

    Attributes:
        package: distribution the weights come from; `None` for random or locally trained weights.
        licence: licence of the weights.
        task: one line for the reader.
        metric: `top1`, `f1`, `module:function`, `agreement` with fp32 or `none`.
        data: where the samples come from.
    """

    package: str | None
    licence: str
    task: str
    metric: str
    data: str


def export_torch(
    module: torch.nn.Module,
    arguments: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    path: Path,
) -> None:
    """Write `module` as ONNX, without exporter metadata, and check it against torch on `arguments`.

    Args:
        module: the model; it is put into evaluation mode.
        arguments: example inputs by name, in the order of the parameters of `module.forward`.
        outputs: names of the model outputs.
        dynamic: dynamic axes as `{input: {axis: symbol}}`; equal symbols are one dimension.
        path: the `.onnx` file to write.

    Raises:
        RuntimeError: ONNX Runtime and torch differ by more than `TOLERANCE`.
    """
    symbols = {name: torch.export.Dim(name, min=1) for axes in dynamic.values() for name in axes.values()}
    shapes = tuple({axis: symbols[s] for axis, s in dynamic.get(name, {}).items()} for name in arguments)
    module.eval()
    with torch.no_grad():
        expected = module(*arguments.values())
        program = torch.onnx.export(
            module,
            tuple(arguments.values()),
            input_names=list(arguments),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    name_outputs(program.model.graph, outputs)
    model = program.model_proto
    strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    found = run_model(path, {name: value.numpy() for name, value in arguments.items()})
    error = float(np.abs(found - expected.numpy()).max())
    if error > TOLERANCE:
        raise RuntimeError(f"{path.parent.name}: ONNX and torch differ by {error:.2g}; check the export")


def name_outputs(graph: onnx_ir.Graph, names: Sequence[str]) -> None:
    """Rename the graph outputs; the exporter's own `output_names` may repeat the name of an inner value."""
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}_{node.name}"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces and file paths from the model and every node and value."""
    graph = model.graph
    holders = [graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for function in model.functions:
        holders += [function, *function.node, *function.value_info]
    del model.metadata_props[:]
    for holder in holders:
        del holder.metadata_props[:]
        holder.doc_string = ""


def open_session(path: Path) -> ort.InferenceSession:
    """Return a single-threaded CPU session, so that scores do not depend on the machine's core count."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_model(path: Path, feeds: Arrays) -> np.ndarray:
    """Return the first output of the model at `path` for one batch."""
    return np.asarray(open_session(path).run(None, dict(feeds))[0])


def save_samples(path: Path, feeds: Arrays, labels: np.ndarray | None = None) -> None:
    """Write one `.npz`: an array per model input and, where there are any, `labels`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **feeds, **({} if labels is None else {LABELS: labels}))


def iterate_batches(folder: Path, split: str) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
    """Yield `(feeds, labels)` of a split: chunks of `<split>.npz`, or each file of `<split>/` whole."""
    single = folder / f"{split}.npz"
    if single.exists():
        arrays = dict(np.load(single))
        labels = arrays.pop(LABELS, None)
        for start in range(0, len(next(iter(arrays.values()))), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            yield {name: a[part] for name, a in arrays.items()}, None if labels is None else labels[part]
        return
    for path in sorted((folder / split).glob("*.npz")):
        arrays = dict(np.load(path))
        labels = arrays.pop(LABELS, None)
        yield arrays, labels


def measure(folder: Path, metric: str) -> tuple[float | None, int]:
    """Return the score of `model.onnx` on its evaluation data and the number of first-output rows.

    The score is `None` without labels: agreement with fp32 is 1 by definition; random weights have no task.
    """
    session = open_session(folder / "model.onnx")
    outputs, labels = [], []
    for feeds, truth in iterate_batches(folder, "eval"):
        outputs.append(np.asarray(session.run(None, feeds)[0]))
        labels += [] if truth is None else [truth]
    rows = np.concatenate(outputs)
    if not np.isfinite(rows).all():
        raise RuntimeError(f"{folder.name}: the fp32 model gives NaN or infinity on its evaluation data")
    if metric == "agreement":
        return 1.0, len(rows)
    if not labels:
        return None, len(rows)
    module, _, name = metric.rpartition(":")
    function = getattr(importlib.import_module(module or "benchmarks.zoo.metrics"), name)
    return float(function(rows, np.concatenate(labels))), len(rows)


def count_parameters(path: Path) -> int:
    """Return the number of floating-point weights: initializers and constants with at least one axis."""
    model = onnx.load(path)
    constants = (a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute)
    arrays = [numpy_helper.to_array(t) for t in (*model.graph.initializer, *constants) if t.dims]
    return sum(a.size for a in arrays if np.issubdtype(a.dtype, np.floating))


def write_info(folder: Path, entry: Entry) -> dict[str, object]:
    """Score the entry in `folder`, write its `info.json` and return the content."""
    score, rows = measure(folder, entry.metric)
    info = {
        "id": folder.name,
        **asdict(entry),
        "version": None if entry.package is None else version(entry.package),
        "params": count_parameters(folder / "model.onnx"),
        "n_calib": sum(len(next(iter(feeds.values()))) for feeds, _ in iterate_batches(folder, "calib")),
        "n_eval": rows,
        "fp32": score,
    }
    (folder / "info.json").write_text(json.dumps(info, indent=2) + "\n")
    return info


def report(message: str) -> None:
    """Write one progress line to stderr."""
    print(message, file=sys.stderr, flush=True)
