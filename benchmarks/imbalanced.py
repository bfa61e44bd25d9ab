"""A network whose channels were made uneven on purpose: what a naive static INT8 loses, and what onnxopt keeps.

    python -m benchmarks.imbalanced [--zoo DIR] [--out FILE] [--seed N]

The small MobileNetV2 of the zoo (`clutter_mobilenet`) with ReLU in the place of ReLU6, whose limit all channels share:
each channel between two convolutions is multiplied by a log-normal factor (sd 1) where it is written and divided by it
where it is read: the same function in float. Score: top-1 on the evaluation data, which nothing else sees.

Forms: `float`; `naive` (every layer, min-max, no fix); one fix each; `fixes` (those that `quantize` would take);
`quantize --mode static` (the command with its fixes, on the calibration data alone; this small network is slower in
INT8, so that it is written by `--keep-failing`).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxopt.commands.common import Source, open_data, open_model
from onnxopt.commands.quantize import quantize
from onnxopt.core.edit import Editor
from onnxopt.core.io import save
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import compare_models
from onnxopt.measurement.env import environment
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.fixes.choose import choose_fixes
from onnxopt.quantization.fixes.equalize import Equalize
from onnxopt.quantization.fixes.regions import find_regions
from onnxopt.quantization.fixes.relu6 import ClipToRelu
from onnxopt.quantization.fixes.rescale import rescale
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.target import Target

HERE = Path(__file__).parent
SD = 1.0
TARGET = Target(threads=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the models, judge them, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imbalanced")
    parser.add_argument("--zoo", type=Path, default=HERE / ".cache" / "zoo", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "imbalanced.json", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    source = options.zoo.resolve() / "clutter_mobilenet"
    with tempfile.TemporaryDirectory(prefix="imbalanced-") as folder:
        rows = list(_rows(source, Path(folder), options.seed))
    document = {"environment": environment(TARGET), "sd": SD, "seed": options.seed, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    table = Table("model", "form", "top-1", "SQNR dB", "", title="Uneven channels")
    for row in rows:
        noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        table.add_row(row["model"], row["form"], f"{row['score']:.3f}", noise, row["detail"])
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _rows(source: Path, folder: Path, seed: int) -> Iterator[dict[str, Any]]:
    path, calib = source / "model.onnx", Source(str(source / "calib.npz"))
    model = open_model(path, TARGET)
    data = open_data(calib, path, model, TARGET)
    judged = open_data(Source(str(source / "eval.npz")), path, model, TARGET)
    ctx = Context(folder, data, TARGET, seed)
    clean, _ = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path, rounds=ROUNDS)
    relu = ClipToRelu(cut=float("inf")).run(clean.clone(), ctx).model
    for name, floats in (("ReLU6", clean), ("ReLU", relu), ("ReLU, uneven", _uneven(relu.clone(), seed))):
        reference, candidate = folder / f"{name}.onnx", folder / "candidate.onnx"
        save(floats, reference)
        fixes = choose_fixes(floats, StaticQuantize(), data, None, ctx)
        forms: dict[str, tuple[Model, StaticQuantize]] = {
            "naive": (floats, StaticQuantize()),
            "equalize": (Equalize().run(floats.clone(), ctx).model, StaticQuantize()),
            "bias correction": (floats, StaticQuantize(correct_bias=True)),
            "fixes": (fixes.model, StaticQuantize(correct_bias=fixes.correct_bias)),
        }
        taken = ", ".join(n.node for n in fixes.notes if n.verdict == "taken")
        yield _row(name, "float", reference, reference, judged, "")
        for form, (base, item) in forms.items():
            save(item.run(base.clone(), ctx).model, candidate)
            yield _row(name, form, reference, candidate, judged, taken if form == "fixes" else "")
        report = quantize(reference, candidate, calib, mode="static", target=TARGET, keep_failing=True)
        detail = f"{report.data['chosen']}: {report.verdict.status}"
        yield _row(name, "quantize --mode static", reference, candidate, judged, detail)


def _row(model: str, form: str, reference: Path, candidate: Path, data: Dataset, detail: str) -> dict[str, Any]:
    found = compare_models(reference, candidate, data, TARGET)
    noise = found.drift[0].sqnr_db
    row = {"model": model, "form": form, "score": found.candidate_score, "detail": detail}
    row["sqnr_db"] = noise if noise is not None and noise < float("inf") else None
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _uneven(model: Model, seed: int) -> Model:
    rng, editor = np.random.default_rng(seed), Editor(model)
    for region in find_regions(model):
        if region.why_not() is None:
            rescale(editor, region, np.exp(rng.standard_normal(region.channels) * SD))
    return model


if __name__ == "__main__":
    sys.exit(main())
