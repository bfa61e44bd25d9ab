"""Expected flips against counted ones: which of the two, from a few samples, tells better what unseen samples show?

    python -m benchmarks.flips [ids...] [--out FILE]

For each model with class scores, the INT8 forms that ``benchmarks.int8_peers`` has made (good and bad ones) run on all
evaluation samples. Sets of 32 and 64 are drawn from these; the disagreement with float in each set is counted, and
estimated from margins and errors (``onnxopt.evaluate.flips``); both are compared with what is counted on all samples
that were not drawn, and where there are labels the same is done with the drop of accuracy. The error is the root mean
square over forms and draws; ``unseen`` of it is the counting error of the other samples, which no estimate avoids.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxopt.evaluate.flips import FlipMeter, log_probabilities, plain_scores
from onnxopt.measurement.env import environment
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

HERE = Path(__file__).parent
MODELS = ("effnet", "orient", "digits", "crepe", "resnet18", "mobilenet_v2")
DRAWN, DRAWS = (32, 64), 60
LABELS = "labels"
SLOWEST_MS = 500.0
"""Forms that take longer a sample (convolutions in dynamic form) are left out."""
TARGET = Target(threads=1)
Array = np.ndarray[Any, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all forms, draw, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flips")
    parser.add_argument("ids", nargs="*", default=MODELS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "flips.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    rows = [row for name in options.ids for row in _rows(name)]
    document = {"environment": environment(TARGET), "draws": DRAWS, "rows": rows}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    table = Table("model", "what", "samples", "forms", "mean", "counted", "estimated", "unseen", title="Error of ...")
    for row in rows:
        figures = [f"{row[key]:.4f}" for key in ("mean", "counted", "estimated", "unseen")]
        table.add_row(row["model"], row["what"], str(row["samples"]), str(row["forms"]), *figures)
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _rows(name: str) -> Iterator[dict[str, Any]]:
    folder = HERE / ".cache" / "zoo" / name
    with np.load(folder / "eval.npz") as arrays:
        labels = arrays.get(LABELS)
        inputs = next(arrays[key] for key in arrays if key != LABELS)
    exact = _outputs(folder / "model.onnx", inputs)
    if exact is None:
        return
    paths = sorted((HERE / ".cache" / "int8_peers" / name).glob("*.onnx"))
    forms = {path.stem: found for path in paths if (found := _outputs(path, inputs)) is not None}
    is_distribution = exact.min() >= 0 and bool(np.allclose(exact.sum(axis=1), 1, atol=1e-3))
    scores = log_probabilities if is_distribution else plain_scores
    truths: dict[str, Array | None] = {"disagreement": None}
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu" and labels.max() < exact.shape[1]:
        truths["drop"] = labels
    for what, truth in truths.items():
        for samples in (n for n in DRAWN if 2 * n <= len(exact)):
            found = [_errors(scores(exact), scores(form), truth, samples) for form in forms.values()]
            counted, estimated, unseen, mean = np.mean(found, axis=0)
            yield {
                "model": name,
                "what": what,
                "samples": samples,
                "forms": len(forms),
                "mean": float(mean),
                "counted": float(np.sqrt(counted)),
                "estimated": float(np.sqrt(estimated)),
                "unseen": float(np.sqrt(unseen)),
            }


def _errors(exact: Array, found: Array, labels: Array | None, samples: int) -> tuple[float, float, float, float]:
    """Mean squares of the errors of count and estimate, of counting on the others, and the mean of what is counted."""
    first, second = exact.argmax(axis=1), found.argmax(axis=1)
    lost = (first != second) * 1.0 if labels is None else (first == labels) * 1.0 - (second == labels)
    rng = np.random.default_rng(0)
    squares: list[tuple[float, float]] = []
    for _ in range(DRAWS):
        order = rng.permutation(len(lost))
        drawn, others = order[:samples], order[samples:]
        meter = FlipMeter()
        meter.update(exact[drawn], found[drawn], None if labels is None else labels[drawn])
        estimate, unseen = meter.expected_drop(), lost[others].mean()
        if estimate is None:
            raise RuntimeError("scores are not finite")
        squares.append(((lost[drawn].mean() - unseen) ** 2, (estimate[0] - unseen) ** 2))
    counted, estimated = np.mean(squares, axis=0)
    return float(counted), float(estimated), float(lost.var() / (len(lost) - samples)), float(lost.mean())


def _outputs(path: Path, inputs: Array) -> Array | None:
    """First output for all samples, one by one; ``None`` where that takes too long."""
    session = open_session(path, TARGET)
    raw = session.raw
    name, output = raw.get_inputs()[0].name, session.outputs[0]
    found: list[Array] = []
    begin = time.perf_counter()
    for index, sample in enumerate(inputs):
        found.append(np.asarray(session.run({name: sample[None]}, [output])[output]))
        if index == 3 and (time.perf_counter() - begin) / 4 > SLOWEST_MS / 1e3:
            return None
    return np.concatenate(found)


if __name__ == "__main__":
    sys.exit(main())
