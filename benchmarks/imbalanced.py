"""A network whose channels were made uneven on purpose: what a naive static INT8 loses, and what onnxopt keeps.

    python -m benchmarks.imbalanced [--zoo DIR] [--out FILE] [--seed N]

EfficientNet-Lite0 of the zoo with ReLU in the place of ReLU6 (whose limit all channels share):
each channel between two convolutions is multiplied by a log-normal factor (sd 1) where it is written and divided by it
where it is read: the same function in float. Score: agreement of the largest logit with float on the evaluation data.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxopt.commands.common import Source, open_data, open_model
from onnxopt.core.edit import Editor
from onnxopt.core.io import save
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import compare_models
from onnxopt.measurement.env import environment
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.equalize import Equalize
from onnxopt.quantization.fixes import Fixes, choose_fixes
from onnxopt.quantization.regions import find_regions
from onnxopt.quantization.relu6 import ClipToRelu
from onnxopt.quantization.rescale import rescale
from onnxopt.quantization.smooth import Smooth
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
    source = options.zoo.resolve() / "effnet"
    with tempfile.TemporaryDirectory(prefix="imbalanced-") as folder:
        rows = list(_rows(source, Path(folder), options.seed))
    document = {"environment": environment(TARGET), "sd": SD, "seed": options.seed, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    table = Table("model", "INT8 form", "agreement with float", "SQNR dB", title="EfficientNet-Lite0, uneven channels")
    for row in rows:
        table.add_row(row["model"], row["form"], f"{row['agreement']:.3f}", f"{row['sqnr_db']:.1f}")
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _rows(source: Path, folder: Path, seed: int) -> list[dict[str, object]]:
    model = open_model(source / "model.onnx", TARGET)
    path = source / "model.onnx"
    data = open_data(Source(str(source / "calib.npz")), path, model, TARGET)
    judged = open_data(Source(str(source / "eval.npz")), path, model, TARGET)
    ctx = Context(folder, data, TARGET, seed)
    model, _ = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path, rounds=ROUNDS)
    model = ClipToRelu(cut=float("inf")).run(model, ctx).model
    rows: list[dict[str, object]] = []
    for name, floats in (("as it is", model), ("uneven", _uneven(model.clone(), seed))):
        reference = folder / f"{name}.onnx"
        save(floats, reference)
        forms: dict[str, tuple[Model, StaticQuantize]] = {"naive": (floats, StaticQuantize())}
        fixes = Fixes(floats)
        if name == "uneven":
            fixes = choose_fixes(floats, StaticQuantize(), data, None, ctx)
            forms |= {
                "equalize": (Equalize().run(floats.clone(), ctx).model, StaticQuantize()),
                "smooth": (Smooth().run(floats.clone(), ctx).model, StaticQuantize()),
                "bias correction": (floats, StaticQuantize(correct_bias=True)),
                "fixes": (fixes.model, StaticQuantize(correct_bias=fixes.correct_bias)),
            }
        for form, (base, item) in forms.items():
            found = _judged(item.run(base.clone(), ctx).model, reference, folder, judged)
            taken = [asdict(n) for n in fixes.notes if n.verdict != "kept"] if form == "fixes" else []
            rows.append({"model": name, "form": form, **found, "notes": taken})
            print(json.dumps({k: v for k, v in rows[-1].items() if k != "notes"}), file=sys.stderr, flush=True)
    return rows


def _judged(model: Model, reference: Path, folder: Path, data: Dataset) -> dict[str, float | None]:
    path = folder / "candidate.onnx"
    save(model, path)
    found = compare_models(reference, path, replace(data, has_labels=False), TARGET)
    return {"agreement": found.candidate_score, "sqnr_db": found.drift[0].sqnr_db}


def _uneven(model: Model, seed: int) -> Model:
    rng, editor = np.random.default_rng(seed), Editor(model)
    for region in find_regions(model):
        if region.why_not() is None:
            rescale(editor, region, np.exp(rng.standard_normal(region.channels) * SD))
    return model


if __name__ == "__main__":
    sys.exit(main())
