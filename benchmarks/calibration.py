"""Calibration on the zoo: output error with each calibrator, and what a pass costs beside plain inference.

    python -m benchmarks.calibration [ID ...]

`sqnr_db`: static INT8 of the cleaned-up model, up to 128 calibration samples, at its first output on samples held back.
`cost`: a fresh process each, one thread, 16, 128 and 1024 samples (those there are, repeated), same tensors exposed:
`plain` only runs the model, `ranges` and `histograms` also collect statistics; wall and CPU time without the start of
the process, peak resident memory of the process. Wall times mean something on a quiet machine only; limits are checked
on CPU time, which there is the same.
`search`: milliseconds a value to find its range from statistics, by calibrator.
Then each limit that memory and time are to keep, with what was found.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IDS = ("effnet", "crepe", "vad", "orient", "digits", "minilm", "resnet50")
COUNTS = (16, 128, 1024)
LONG = ("effnet", "vad", "minilm", "resnet50")
"""The models on which 1024 samples are run too."""
FLAT, RANGES_SHARE, PLAIN_SHARE, ENTROPY_MS = 1.1, 1.3, 1.5, 5.0
"""Limits: peak memory over that of 16 samples and over that of ranges, CPU time over plain inference, search."""
KINDS = ("plain", "ranges", "histograms")

SKIPPED = {"sqnr": ("sqnr_db",), "cost": ("cost", "search_ms")}
"""Parts of the result that stay as they are in the file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the ids on the command line, print and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    parser.add_argument("ids", nargs="*", default=IDS)
    parser.add_argument("--zoo", type=Path, default=HERE / ".cache" / "zoo")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "calibration.json")
    parser.add_argument("--skip", choices=("sqnr", "cost"))
    parser.add_argument("--cost", nargs=3, metavar=("MODEL", "KIND", "COUNT"), help="one measurement, in this process")
    options = parser.parse_args(arguments)
    if options.cost:
        print(json.dumps(_cost(options.zoo / options.cost[0], options.cost[1], int(options.cost[2]))))
        return 0
    document: dict[str, Any] = {"sqnr_db": {}, "cost": [], "search_ms": {}}
    if options.skip and options.out.exists():
        before = json.loads(options.out.read_text())
        document |= {part: before[part] for part in SKIPPED[options.skip]}
    for name in options.ids:
        if options.skip != "cost":
            document["cost"] += _costs(name, options.zoo)
            document["search_ms"][name] = _search_ms(options.zoo / name)
        if options.skip != "sqnr":
            document["sqnr_db"][name] = _sqnr(options.zoo / name)
            print(name, document["sqnr_db"][name], flush=True)
    from onnxopt.measurement.env import environment
    from onnxopt.run.target import Target

    document["environment"] = {**environment(Target(threads=1)), "load_average": list(os.getloadavg())}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    for line in _limits(document["cost"], document["search_ms"]):
        print(line)
    return 0


def _costs(name: str, zoo: Path) -> list[dict[str, object]]:
    rows = []
    for count in COUNTS if name in LONG else COUNTS[:2]:
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.calibration", "--zoo", str(zoo), "--cost", name, kind]
            done = subprocess.run([*command, str(count)], capture_output=True, text=True, check=True)
            rows.append({"id": name, "kind": kind, "samples": count, **json.loads(done.stdout)})
            print(rows[-1], flush=True)
    return rows


def _limits(cost: Sequence[dict[str, Any]], search_ms: dict[str, dict[str, float]]) -> Iterator[str]:
    """A line for each limit: kept or not, with the figures."""

    def line(name: str, what: str, found: float, limit: float) -> str:
        return f"{'kept    ' if found <= limit else 'NOT KEPT'} {name}: {what} {found:.2f}, at most {limit:g}"

    of = {(row["id"], row["kind"], row["samples"]): row for row in cost}
    for name, kind, count in of:
        if kind != "histograms":
            continue
        row, few = of[name, kind, count], of[name, kind, COUNTS[0]]
        ranges, plain = of[name, "ranges", count], of[name, "plain", count]
        said = f"{count} samples, peak memory over that of"
        yield line(name, f"{said} {COUNTS[0]}", row["peak_rss_mb"] / few["peak_rss_mb"], FLAT)
        yield line(name, f"{said} ranges", row["peak_rss_mb"] / ranges["peak_rss_mb"], RANGES_SHARE)
        yield line(name, f"{count} samples, time over that of plain", row["cpu_s"] / plain["cpu_s"], PLAIN_SHARE)
    for name, found in search_ms.items():
        yield line(name, "entropy, ms a value", found["entropy"], ENTROPY_MS)


def _open(folder: Path) -> tuple[Path, object, object]:
    from onnxopt.core.io import load
    from onnxopt.core.query import input_specs
    from onnxopt.data.sources import open_dataset

    path = folder / "model.onnx"
    model = load(path)
    calib = folder / "calib.npz"
    return path, model, open_dataset(str(calib if calib.exists() else folder / "calib"), input_specs(model))


def _cost(folder: Path, kind: str, count: int) -> dict[str, float]:
    from onnxopt.core.opset import raise_opset
    from onnxopt.quantization.ranges.calibrate import calibrate
    from onnxopt.quantization.select import quantizable
    from onnxopt.run.tap import tap
    from onnxopt.run.target import Target

    _, model, data = _open(folder)
    model = raise_opset(model, 13)
    data = replace(data, order=tuple(data.order[i % len(data)] for i in range(count)))
    names, target = quantizable(model), Target(threads=1)
    with tempfile.TemporaryDirectory() as workdir:
        start, cpu_start = time.perf_counter(), time.process_time()
        if kind == "plain":
            for _ in tap(model, names, lambda: (s.feeds for s in data), target, Path(workdir)):
                pass
        else:
            calibrate(model, names, data, target, Path(workdir), histograms=kind == "histograms")
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"values": len(names), "wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "peak_rss_mb": round(peak, 1)}


def _search_ms(folder: Path) -> dict[str, float]:
    from onnxopt.core.opset import raise_opset
    from onnxopt.quantization.ranges.calibrate import calibrate
    from onnxopt.quantization.ranges.calibrators import CALIBRATORS, choose_range
    from onnxopt.quantization.scheme import CPU_X86
    from onnxopt.quantization.select import quantizable
    from onnxopt.run.target import Target

    _, model, data = _open(folder)
    model, data = raise_opset(model, 13), data.take(range(min(8, len(data))))
    with tempfile.TemporaryDirectory() as workdir:
        found = calibrate(model, quantizable(model), data, Target(threads=1), Path(workdir), histograms=True)
    taken: dict[str, float] = {}
    for calibrator in CALIBRATORS:
        start = time.process_time()
        for statistics in found.values():
            choose_range(statistics, calibrator, CPU_X86.activations)
        taken[calibrator] = round(1000 * (time.process_time() - start) / len(found), 3)
    return taken


def _sqnr(folder: Path) -> dict[str, float]:
    from onnxopt.data.dataset import split
    from onnxopt.passes.base import Context
    from onnxopt.passes.pipeline import ROUNDS, run
    from onnxopt.passes.registry import OPTIMIZE, create
    from onnxopt.quantization.search.tryout import output_errors
    from onnxopt.quantization.static import StaticQuantize
    from onnxopt.run.session import open_session
    from onnxopt.run.target import Target

    path, model, data = _open(folder)
    calibration, held_back = split(data, calibration=128, seed=0)
    target = Target(threads=1)
    output = open_session(path, target).outputs[0]
    with tempfile.TemporaryDirectory() as workdir:
        ctx = Context(Path(workdir), calibration, target)
        clean, _ = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path, rounds=ROUNDS)
        found = output_errors(StaticQuantize(), clean, path, held_back, output, ctx)
    return {name: round(value, 2) for name, value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
