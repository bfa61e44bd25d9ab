"""Latency, throughput, start and memory of one model, in fresh worker processes."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.measurement.env import is_spinning, settle_spinning
from onnxopt.measurement.job import Answer, Effort, Load, Subject, median_ms, peak_mb, times_ms
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.measurement.stats import SAMPLES_FOR, percentile
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["MEASURED_RUNS", "MEASURED_SECONDS", "PROCESSES", "Measurement", "measure", "pool"]

MEASURED_SAMPLES = 64
MEASURED_RUNS = SAMPLES_FOR[99]
MEASURED_SECONDS = 3.0
PROCESSES = 3
HOST_RUNS = 40


@dataclass(frozen=True)
class Measurement:
    """Latency, throughput, start and memory of one model.

    Attributes:
        scenario: What MLPerf Inference calls this load: ``"SingleStream"`` (one query after the other, of one sample),
            ``"MultiStream"`` (of several), ``"Offline"`` (several at the same time), ``"Server"`` (Poisson arrivals).
        n: Timed runs, over all processes.
        processes: Worker processes.
        p25_ms: 25th percentile.
        p50_ms: Median.
        p90_ms: 90th percentile, ``None`` below 64 runs.
        p99_ms: 99th percentile, ``None`` below 662 runs.
        mean_ms: Mean.
        copy_ms: What a run from numpy arrays to numpy arrays takes longer than one on tensors that are in place, as
            the latencies above are: difference of the medians; ``None`` unless queries come one after the other.
        throughput: Samples a second.
        batch_size: Samples of one query, on average.
        concurrency: Queries at the same time.
        rate: Queries a second that arrived on average; ``None``: each as soon as the last was answered.
        utilization: Share of the time in which the threads were busy, for ``rate``; near 1 the queue grows forever.
            The queries that were answered in a second are ``throughput / batch_size``.
        load_ms: Time to create the session, median over processes.
        first_run_ms: Time of the first run, median over processes.
        peak_rss_mb: Peak resident memory (MiB) of a worker, largest over processes; ``None``: unknown.
        device_mb: Device memory (MiB) of a worker, largest over processes; ``None``: no GPU, or unknown.
        spinning: Whether idle threads waited by spinning.
        times_ms: The latency of each run.
    """

    scenario: str
    n: int
    processes: int
    p25_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    copy_ms: float | None
    throughput: float
    batch_size: float
    concurrency: int
    rate: float | None
    utilization: float | None
    load_ms: float
    first_run_ms: float
    peak_rss_mb: float | None
    device_mb: float | None
    spinning: bool
    times_ms: tuple[float, ...]


def measure(
    path: Path | Sequence[Path],
    feeds: Sequence[Feeds],
    target: Target,
    *,
    batch_size: float | None = None,
    load: Load | None = None,
    processes: int = PROCESSES,
    runs: int = MEASURED_RUNS,
    seconds: float = MEASURED_SECONDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """The latency of one model, pooled over fresh processes.

    Args:
        path: Model file; several: separate sessions that are run one after the other.
        feeds: Samples to run in turn; at most 64 of them, evenly spaced.
        target: Where it runs.
        batch_size: Samples of one query, on average; default: the first axis of the first input.
        load: Queries at the same time and their arrivals; default: one after the other.
        processes: Fresh processes, one after the other.
        runs: Timed runs that are enough, over all processes.
        seconds: Longest time of timed runs in each process.
        seed: Seeds what is random in a worker.
        progress: Told of each process.

    Raises:
        ModelError: The model cannot be loaded, or crashed its process.
        ProviderError: The provider cannot be used.
        DataError: There is no sample, or the model does not run on one.
    """
    progress = progress or SilentProgress()
    samples = spread(feeds, MEASURED_SAMPLES)
    settled = settle_spinning(target, paired=False)
    paths = [path] if isinstance(path, Path) else list(path)
    first, *further = (str(p.resolve()) for p in paths)
    subject = Subject(first, settled, tuple(further))
    load = load or Load()
    effort = Effort(rounds=-(-runs // processes), most_seconds=seconds, host_runs=HOST_RUNS)
    answers: list[Answer] = []
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        progress.task(f"measuring {paths[0].name}", processes) as advance,
    ):
        laboratory = Laboratory(Path(folder), samples)
        for i in range(processes):
            answers.append(laboratory.run([subject], effort, seed + i, load))
            advance(1)
    batch = statistics.fmean(map(_batch_size, samples)) if batch_size is None else batch_size
    return pool(answers, load, batch, spinning=is_spinning(settled))


def pool(answers: Sequence[Answer], load: Load, batch_size: float, *, spinning: bool) -> Measurement:
    """What several processes saw of one model under the same load."""
    timings = [answer.timings[0] for answer in answers]
    times = times_ms(answers, 0)
    wall_s = sum(t.wall_ns for t in timings) / 1e9
    busy_s = sum(t.busy_ns for t in timings) / 1e9
    host = [ns / 1e6 for t in timings for ns in t.host_ns] if load.is_single_stream else []
    return Measurement(
        scenario=_scenario(load, batch_size),
        n=len(times),
        processes=len(answers),
        p25_ms=float(np.percentile(times, 25)),
        p50_ms=statistics.median(times),
        p90_ms=percentile(times, 90),
        p99_ms=percentile(times, 99),
        mean_ms=statistics.fmean(times),
        copy_ms=max(0.0, statistics.median(host) - statistics.median(times)) if host else None,
        throughput=batch_size * len(times) / wall_s,
        batch_size=batch_size,
        concurrency=load.concurrency,
        rate=load.rate,
        utilization=None if load.rate is None else busy_s / wall_s / load.concurrency,
        load_ms=median_ms(t.load_ns for t in timings),
        first_run_ms=median_ms(t.first_run_ns for t in timings),
        peak_rss_mb=peak_mb(a.peak_rss_bytes for a in answers),
        device_mb=peak_mb(a.device_bytes for a in answers),
        spinning=spinning,
        times_ms=tuple(times),
    )


def _scenario(load: Load, batch_size: float) -> str:
    if load.rate is not None:
        return "Server"
    if load.concurrency > 1:
        return "Offline"
    return "MultiStream" if batch_size > 1 else "SingleStream"


def _batch_size(sample: Feeds) -> int:
    first = next(iter(sample.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1
