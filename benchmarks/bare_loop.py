"""Does ``onnxopt bench`` report what a bare loop over ``session.run_with_iobinding`` takes?

    python -m benchmarks.bare_loop

Models of about 0.05, 1 and 50 ms. The bare loop runs in fresh processes too, with the same threads, and alternates with
``onnxopt.bench``, since the machine's own speed changes over minutes. Prints both medians and writes JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import onnxopt
from benchmarks.gate_power import RESULTS, ROWS, WIDTH, chain
from onnxopt.measurement.env import environment
from onnxopt.run.target import Target

SIZES = {"0.05 ms": (5, ROWS), "1 ms": (100, ROWS), "50 ms": (100, 50 * ROWS)}
"""Layers and rows of a chain."""
ROUNDS = 7
LOOP = """
import sys, time, statistics, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.load(sys.argv[2])["x"]
binding = session.io_binding()
binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
binding.bind_output("y")
times = []
end = time.perf_counter() + 3
while len(times) < 40 or (time.perf_counter() < end and len(times) < 2000):
    start = time.perf_counter_ns()
    session.run_with_iobinding(binding)
    times.append(time.perf_counter_ns() - start)
print(statistics.median(times[len(times) // 5:]) / 1e6)
"""


def bare(model: Path, data: Path) -> float:
    """Median in ms of the bare loop, in one fresh process."""
    done = subprocess.run([sys.executable, "-c", LOOP, str(model), str(data)], capture_output=True, check=True)
    return float(done.stdout)


def main() -> None:
    target, rows = Target(threads=1), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, (layers, count) in SIZES.items():
            model, data = chain(layers, folder / f"{layers}x{count}.onnx", count), folder / "data.npz"
            np.savez(data, x=np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32))
            ours, loops = [], []
            for i in range(ROUNDS):
                loops.append(bare(model, data))
                report = onnxopt.bench([model], onnxopt.Source(seed=i), target=target)
                ours.append(report.data["rows"][0]["measurement"]["p50_ms"])
            ratios = [a / b for a, b in zip(ours, loops, strict=True)]
            rows.append(
                {
                    "model": title,
                    "bench_p50_ms": ours,
                    "bare_p50_ms": loops,
                    "median_ratio": statistics.median(ratios),
                    "ratios": ratios,
                }
            )
            print(title, f"{statistics.median(ours):.4f} against {statistics.median(loops):.4f} ms", ratios, flush=True)
    result = {"environment": environment(target), "rows": rows}
    (RESULTS / "bare_loop.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
