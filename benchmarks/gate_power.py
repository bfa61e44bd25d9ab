"""False alarms and power of ``onnxopt gate`` beside the usual rule, on a machine under load.

    python -m benchmarks.gate_power [--equal 200] [--slower 100] [--threads 1] [--output FILE]

A chain of 100 equal layers of about a millisecond against itself, and against chains of 103, 105 and 110 layers,
whose slow-down is real work; a busy loop keeps the last core occupied all the time. Each trial is one gate with its
default limit (latency ratio below 1.03), and one application of the usual rule to the same two files: each model runs
by itself in a process of its own, 200 times after a warm-up, and the candidate fails when it is over 5 % slower (by
the mean, as most scripts do; the median is recorded too). Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import onnxopt
from onnxopt.core.io import save
from onnxopt.measurement.env import environment
from onnxopt.measurement.job import Effort, Subject
from onnxopt.measurement.process import Laboratory
from onnxopt.run.target import Target

RESULTS = Path(__file__).parent / "results"
LAYERS = 100
SLOW_DOWNS = (0, 3, 5, 10)
ROWS, WIDTH = 150, 64
RULE = 1.05
RULE_RUNS = Effort(rounds=200, least_seconds=0, most_seconds=60, least_rounds=200)


def chain(layers: int, path: Path, rows: int = ROWS) -> Path:
    """Writes a chain of equal MatMul + Relu layers on ``rows`` rows."""
    rng = np.random.default_rng(0)
    x = ir.Value(name="x", shape=ir.Shape([rows, WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    value, nodes, weights = x, [], []
    for i in range(layers):
        array = rng.normal(0, (2 / WIDTH) ** 0.5, (WIDTH, WIDTH)).astype(np.float32)
        weight = ir.Value(name=f"w{i}", const_value=ir.tensor(array, name=f"w{i}"))
        nodes += [product := ir.node("MatMul", [value, weight]), relu := ir.node("Relu", product.outputs)]
        weights.append(weight)
        value = relu.outputs[0]
    value.name, value.shape, value.type = "y", ir.Shape([rows, WIDTH]), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [value], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="chain")
    save(ir.Model(graph, ir_version=8), path)
    return path


@contextmanager
def busy_core() -> Iterator[None]:
    """Keeps the last allowed core occupied."""
    cores = sorted(os.sched_getaffinity(0))
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    os.sched_setaffinity(loop.pid, {cores[-1]})
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def usual_rule(first: Path, second: Path, target: Target, folder: Path, seed: int) -> dict[str, float]:
    """Mean and median ratio of two separate runs."""
    feeds = [{"x": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)}]
    laboratory = Laboratory(folder, feeds)
    times = [laboratory.run([Subject(str(p), target)], RULE_RUNS, seed).timings[0].runs_ns for p in (first, second)]
    return {
        "mean": statistics.fmean(times[1]) / statistics.fmean(times[0]),
        "median": statistics.median(times[1]) / statistics.median(times[0]),
    }


def trial(models: dict[int, Path], slow_down: int, target: Target, folder: Path, seed: int) -> dict[str, Any]:
    """One gate and one application of the usual rule."""
    begin = time.monotonic()
    report = onnxopt.gate(
        models[slow_down], models[0], onnxopt.Limits(latency_ratio=1.03), onnxopt.Source(seed=seed), target=target
    )
    seconds = time.monotonic() - begin
    check, latency = report.data["checks"][0], report.data["measured"]["latency"]
    return {
        "slow_down": slow_down,
        "seed": seed,
        "status": report.verdict.status.value,
        "seconds": round(seconds, 2),
        "ratio": check["measured"],
        "low": check["low"],
        "high": check["high"],
        "processes": latency["processes"],
        "p50_ms": latency["reference"]["p50_ms"],
        "log_ratios": [math.log(ratio) for ratio in latency["process_ratios"]],
        "noise_log_ratios": report.data["noise_floor"]["process_log_ratios"],
        "usual": usual_rule(models[0], models[slow_down], target, folder, seed),
    }


def summary(trials: list[dict[str, Any]], slow_down: int) -> dict[str, Any]:
    """Shares of each outcome at one slow-down, in per cent."""
    rows = [t for t in trials if t["slow_down"] == slow_down]

    def share(test: Any) -> float:
        return round(100 * sum(map(test, rows)) / len(rows), 1)

    return {
        "slow_down_percent": slow_down,
        "trials": len(rows),
        "gate_fails": share(lambda t: t["status"] == "fail"),
        "gate_inconclusive": share(lambda t: t["status"] == "inconclusive"),
        "mean_rule_fails": share(lambda t: t["usual"]["mean"] > RULE),
        "median_rule_fails": share(lambda t: t["usual"]["median"] > RULE),
        "median_ratio": round(statistics.median(t["ratio"] for t in rows), 4),
        "spread_points": round(100 * statistics.pstdev(t["ratio"] for t in rows), 2),
        "seconds_median": statistics.median(t["seconds"] for t in rows),
        "seconds_max": max(t["seconds"] for t in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--equal", type=int, default=200)
    parser.add_argument("--slower", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "gate_power.json")
    options = parser.parse_args()
    target = Target(threads=options.threads)
    plan = [s for s in SLOW_DOWNS for _ in range(options.slower if s else options.equal)]
    random.Random(0).shuffle(plan)
    trials: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, busy_core():
        folder = Path(name)
        models = {s: chain(LAYERS + s, folder / f"chain{LAYERS + s}.onnx") for s in SLOW_DOWNS}
        for i, slow_down in enumerate(plan):
            trials.append(trial(models, slow_down, target, folder, i))
            if i % 10 == 9 or i == len(plan) - 1:
                found = [summary(trials, s) for s in SLOW_DOWNS if any(t["slow_down"] == s for t in trials)]
                result = {"environment": environment(target), "summary": found, "trials": trials}
                options.output.write_text(json.dumps(result, indent=1) + "\n")
                print(f"{i + 1}/{len(plan)}", *found, sep="\n", flush=True)


if __name__ == "__main__":
    main()
