"""Which figure of a process tells two models apart best? Spread of several over processes, on a busy machine.

    python -m benchmarks.gate_statistic [--processes 60]

Records interleaved pairs of the chains of ``gate_power`` in fresh processes, on one and on two threads, while a busy
loop keeps one core occupied; then computes from the same recordings each figure, its spread over processes, and how
gates that use it would end (drawn with replacement). "block minima" is what onnxopt uses (``stats.log_ratio``).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gate_power import LAYERS, RESULTS, ROWS, SLOW_DOWNS, WIDTH, busy_core, chain
from onnxopt.measurement.env import environment, settle_spinning
from onnxopt.measurement.job import Effort, Subject
from onnxopt.measurement.process import Laboratory
from onnxopt.measurement.stats import holds, log_ratio
from onnxopt.run.target import Target

Array = np.ndarray[Any, Any]
LIMIT, LEAST, MOST, DRAWS = 1.03, 5, 15, 500


def quantile(q: int) -> Callable[[Array, Array], float]:
    """The ratio of the ``q``-th percentiles."""
    return lambda a, b: math.log(np.percentile(b, q) / np.percentile(a, q))


FIGURES: dict[str, Callable[[Array, Array], float]] = {
    "mean": lambda a, b: math.log(b.mean() / a.mean()),
    "p50": quantile(50),
    "p25": quantile(25),
    "p5": quantile(5),
    "median of pair ratios": lambda a, b: float(np.median(np.log(b / a))),
    "block minima": lambda a, b: log_ratio(a.tolist(), b.tolist(), [0] * len(a)),
}


def record(threads: int, processes: int) -> dict[int, list[tuple[Array, Array]]]:
    """For each slow-down the times of both models in each process."""
    target = settle_spinning(Target(threads=threads), paired=True)
    found: dict[int, list[tuple[Array, Array]]] = {s: [] for s in SLOW_DOWNS}
    feeds = [{"x": np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {s: chain(LAYERS + s, folder / f"{s}.onnx") for s in SLOW_DOWNS}
        laboratory = Laboratory(folder, feeds)
        for i in range(processes):
            for s in SLOW_DOWNS:
                pair = [Subject(str(models[0]), target), Subject(str(models[s]), target)]
                timings = laboratory.run(pair, Effort(), i).timings
                found[s].append((np.array(timings[0].runs_ns, float), np.array(timings[1].runs_ns, float)))
    return found


def ending(logs: list[float], rng: np.random.Generator) -> bool | None:
    """How one gate ends whose processes are drawn from the recorded ones."""
    drawn: list[float] = []
    while len(drawn) < MOST:
        drawn.append(float(rng.choice(logs)))
        found = holds(drawn, limit=LIMIT, min_processes=LEAST)
        if found is not None:
            return found
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=60)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with busy_core():
        recorded = {threads: record(threads, options.processes) for threads in (1, 2)}
        block = environment(Target(threads=2))
    rng = np.random.default_rng(0)
    for threads, by_slow_down in recorded.items():
        for name, figure in FIGURES.items():
            row: dict[str, Any] = {"threads": threads, "figure": name}
            for s, pairs in by_slow_down.items():
                logs = [figure(a, b) for a, b in pairs]
                ends = [ending(logs, rng) for _ in range(DRAWS)]
                row[f"{s} %"] = {
                    "spread_points": round(100 * float(np.std(logs)), 2),
                    "fails": round(100 * ends.count(False) / DRAWS, 1),
                    "undecided": round(100 * ends.count(None) / DRAWS, 1),
                }
            rows.append(row)
            print(row, flush=True)
    result = {"environment": block, "processes": options.processes, "draws": DRAWS, "rows": rows}
    (RESULTS / "gate_statistic.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
