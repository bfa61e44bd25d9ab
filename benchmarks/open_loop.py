"""What a closed loop and an open loop report of a process that stands still for a tenth of the time.

    python -m benchmarks.open_loop

The worker that serves the digit classifier is stopped (SIGSTOP) for 100 ms once a second. A client that waits for each
answer sends one query into every stall; arrivals that do not wait meet it in proportion to its length. Linux only.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnxopt.measurement.env import environment
from onnxopt.measurement.job import Load
from onnxopt.measurement.measure import Measurement, measure
from onnxopt.run.target import Target

MODEL = Path("calibration_data/mnist/mnist_cnn.onnx")
RESULTS = Path(__file__).parent / "results" / "open_loop.json"
SECONDS = 15.0
RATE = 100.0
EVERY_S, STALL_S = 0.9, 0.1


def workers() -> Iterator[int]:
    """Children of this process that measure."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"onnxopt.measurement.worker" in (entry / "cmdline").read_bytes():
                yield int(entry.name)
        except (OSError, IndexError):
            continue


def measured(load: Load, *, stalls: bool) -> Measurement:
    """One process under ``load``, with or without stalls."""
    done, target = threading.Event(), Target(threads=1)
    feeds = [{"image": np.random.default_rng(0).normal(size=(1, 1, 28, 28)).astype(np.float32)}]

    def stall() -> None:
        while not done.wait(EVERY_S):
            for pid in workers():
                os.kill(pid, signal.SIGSTOP)
                done.wait(STALL_S)
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stall if stalls else done.wait, daemon=True)
    thread.start()
    try:
        return measure(MODEL, feeds, target, load=load, processes=1, seconds=SECONDS, runs=10**9)
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Measures the four cases, prints them, and writes them with the environment."""
    rows: list[dict[str, object]] = []
    for name, load in (("closed loop", Load()), (f"open loop, {RATE:g}/s", Load(rate=RATE))):
        for stalls in (False, True):
            found = measured(load, stalls=stalls)
            row = {"load": name, "stalls": stalls, "n": found.n, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms}
            rows.append(row)
            print(row)
    document = {"stall_s": STALL_S, "period_s": EVERY_S + STALL_S, "rows": rows, "environment": environment(Target())}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
