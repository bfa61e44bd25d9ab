"""Calibration on the zoo: output error with each calibrator, and what a pass costs beside plain inference.

    python -m benchmarks.calibration [ID ...]

`sqnr_db`: static INT8 of the cleaned-up model, up to 128 calibration samples, at its first output on samples held back.
`cost`: a fresh process each, one thread, 16, 128 and 1024 samples (those there are, repeated), same tensors exposed:
`plain` only runs the model, `ranges` and `histograms` also collect statistics; wall and CPU time without the start of
the process, peak resident memory of the process. Wall times mean something on a quiet machine only.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).parent
IDS = ("effnet", "crepe", "vad", "orient", "digits", "minilm")
COUNTS = (16, 128, 1024)
LONG = ("effnet", "vad")
"""The models on which 1024 samples are run too."""
KINDS = ("plain", "ranges", "histograms")


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
    document: dict[str, object] = {"sqnr_db": {}, "cost": []}
    for name in options.ids:
        if options.skip != "cost":
            document["cost"] += _costs(name, options.zoo)
        if options.skip != "sqnr":
            document["sqnr_db"][name] = _sqnr(options.zoo / name)
            print(name, document["sqnr_db"][name], flush=True)
    from onnxopt.measurement.env import environment
    from onnxopt.run.target import Target

    document["environment"] = {**environment(Target(threads=1)), "load_average": list(os.getloadavg())}
    options.out.write_text(json.dumps(document, indent=1) + "\n")
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
    from onnxopt.quantization.calibrate import calibrate
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


def _sqnr(folder: Path) -> dict[str, float]:
    from onnxopt.data.dataset import split
    from onnxopt.passes.base import Context
    from onnxopt.passes.pipeline import ROUNDS, run
    from onnxopt.passes.registry import OPTIMIZE, create
    from onnxopt.quantization.static import StaticQuantize
    from onnxopt.quantization.tryout import output_errors
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
