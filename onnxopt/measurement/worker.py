"""The process that times models: ``python -m onnxopt.measurement.worker JOB.json ANSWER.json``.

It imports numpy, ONNX Runtime and little else, so that its memory and its start are those of the model. It opens every
session first, warms each model up, then runs them in rounds of random order, so that whatever else the machine does
falls on both alike.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.errors import OnnxoptError
from onnxopt.measurement.binding import Run, bound_run, host_run
from onnxopt.measurement.job import Answer, Effort, Job, Timing
from onnxopt.measurement.load import Served, serve
from onnxopt.measurement.memory import device_bytes, peak_rss_bytes
from onnxopt.run.session import Feeds, Session, open_session
from onnxopt.run.target import Target

__all__ = ["answer", "end_when_orphaned", "is_steady", "main", "perform", "samples_of"]

WARM_UP_WINDOW = 10
WARM_UP_CHANGE = 0.02
WARM_UP_RUNS = 200
WARM_UP_SECONDS = 2.0
SLOW_RUN_SECONDS = 0.2
SLOW_WARM_UP_RUNS = 3
HOST_SECONDS = 0.5
FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}


def main(arguments: Sequence[str]) -> int:
    """Performs the job in the first file and writes the answer, or the error, to the second."""
    source, sink = (Path(a) for a in arguments)
    answer(sink, lambda: perform(Job.from_json(source.read_text(encoding="utf-8"))).to_document())
    return 0


def answer(sink: Path, work: Callable[[], dict[str, Any]]) -> None:
    """Writes what ``work`` returns, or the error it raises, to ``sink``."""
    try:
        document: dict[str, Any] = {"answer": work()}
    except OnnxoptError as error:
        document = {"error": [type(error).__name__, error.what, error.where, error.fix]}
    sink.write_text(json.dumps(document), encoding="utf-8")


def perform(job: Job) -> Answer:
    """The times of the models of ``job``.

    Raises:
        ModelError: A model cannot be loaded.
        ProviderError: Its provider cannot be used.
        DataError: It does not run on a sample.
    """
    samples = samples_of(job.feeds, job.inputs)
    count = len(job.subjects)
    load_ns, first_run_ns = [0] * count, [0] * count
    fallback: list[tuple[str, ...]] = [()] * count
    runs: list[list[Run]] = [[] for _ in job.subjects]
    host_runs: list[list[Run]] = [[] for _ in job.subjects]
    further: list[list[Run]] = []
    for k in range(count) if job.seed % 2 == 0 else reversed(range(count)):
        subject = job.subjects[k]
        sessions = [open_session(Path(path), subject.target) for path in subject.paths]
        load_ns[k] = sum(session.load_ns for session in sessions)
        fallback[k] = tuple(str(node) for session in sessions for node in session.fallback)
        feeds = [[_as_taken(session, sample) for session in sessions] for sample in samples]
        bind = partial(_bound, sessions, subject.target)
        for values in feeds:
            start = time.perf_counter_ns()
            for session, own in zip(sessions, values, strict=True):
                session.run(own)
            first_run_ns[k] = first_run_ns[k] or time.perf_counter_ns() - start
            runs[k].append(bind(values))
            host_runs[k].append(_in_turn([host_run(s, own) for s, own in zip(sessions, values, strict=True)]))
            end_when_orphaned(job.parent)
        further = [[bind(values) for values in feeds] for _ in range(job.load.concurrency - 1)]
    gc.collect()
    gc.disable()
    warm_up = [len(samples) + (_warm_up(r, job) if job.effort.warm_up else 0) for r in runs]
    served: Served | None = None
    if job.load.is_single_stream:
        times = _rounds(runs, job, job.effort)
    else:
        served = serve([runs[0], *further], job.load, job.effort, job.seed, lambda: end_when_orphaned(job.parent))
        times = [served.latencies_ns]
    timings = tuple(
        Timing(
            load_ns[k],
            first_run_ns[k],
            warm_up[k],
            tuple(times[k]),
            _host_times(host_runs[k], job),
            wall_ns=served.wall_ns if served else sum(times[k]),
            busy_ns=served.busy_ns if served else sum(times[k]),
            fallback=fallback[k],
        )
        for k in range(count)
    )
    return Answer(timings, peak_rss_bytes(), device_bytes(job.subjects[0].target))


def _bound(sessions: Sequence[Session], target: Target, feeds: Sequence[Feeds]) -> Run:
    """One call of all sessions, on bound inputs and outputs."""
    return _in_turn([bound_run(session, target, own) for session, own in zip(sessions, feeds, strict=True)])


def _in_turn(runs: Sequence[Run]) -> Run:
    """All of them as one run."""
    if len(runs) == 1:
        return runs[0]

    def run() -> None:
        for each in runs:
            each()

    return run


def is_steady(times: Sequence[float], window: int) -> bool:
    """Whether the median of the last ``window`` times is within 2 % of that of the ``window`` before them."""
    if len(times) < 2 * window:
        return False
    last, before = statistics.median(times[-window:]), statistics.median(times[-2 * window : -window])
    return abs(last - before) < WARM_UP_CHANGE * before


def _warm_up(runs: Sequence[Run], job: Job) -> int:
    """Runs the samples in turn until the time is steady, bounded in runs and in time; returns the runs made."""
    window = -(-WARM_UP_WINDOW // len(runs)) * len(runs)  # whole turns: both windows hold the same samples
    times: list[int] = []
    begin = time.perf_counter()
    while len(times) < WARM_UP_RUNS and not is_steady(times, window):
        times.append(_timed(runs[len(times) % len(runs)]))
        end_when_orphaned(job.parent)
        if time.perf_counter() - begin > WARM_UP_SECONDS:
            break
        if len(times) >= SLOW_WARM_UP_RUNS and min(times) > SLOW_RUN_SECONDS * 1e9:
            break
    return len(times)


def _rounds(runs: Sequence[Sequence[Run]], job: Job, effort: Effort) -> list[list[int]]:
    """Times in ns, one list a model: in each round every model runs once on the same sample, in random order."""
    order, shuffle = list(range(len(runs))), random.Random(job.seed).shuffle
    times: list[list[int]] = [[] for _ in runs]
    samples = len(runs[0])
    done, spent_ns = 0, 0
    while not effort.is_spent(done, spent_ns / 1e9 / len(runs)):
        shuffle(order)
        for k in order:
            elapsed = _timed(runs[k][done % samples])
            times[k].append(elapsed)
            spent_ns += elapsed
        done += 1
        end_when_orphaned(job.parent)
    return times


def _timed(run: Run) -> int:
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


def _host_times(runs: Sequence[Run], job: Job) -> tuple[int, ...]:
    times: list[int] = []
    while len(times) < job.effort.host_runs and sum(times) < HOST_SECONDS * 1e9:
        times.append(_timed(runs[len(times) % len(runs)]))
        end_when_orphaned(job.parent)
    return tuple(times)


def samples_of(path: str, inputs: Sequence[Sequence[str]]) -> list[Feeds]:
    """The samples in the ``.npz`` of a job."""
    with np.load(path, allow_pickle=False) as arrays:
        return [{name: arrays[f"{i}_{j}"] for j, name in enumerate(names)} for i, names in enumerate(inputs)]


def _as_taken(session: Session, sample: Feeds) -> Feeds:
    """The arrays that the session takes; floating-point ones as wide as it wants: precisions of a model may differ."""
    feeds = {i.name: (sample[i.name], FLOATS.get(i.type)) for i in session.raw.get_inputs() if i.name in sample}
    return {
        name: array.astype(kind, copy=False) if kind is not None and array.dtype.kind == "f" else array
        for name, (array, kind) in feeds.items()
    }


def end_when_orphaned(parent: int) -> None:
    """Ends this process when the one that wants the answer is gone."""
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which asked for this measurement, is gone")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
