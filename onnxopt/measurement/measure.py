"""Latency of one model, and of two models compared, in fresh worker processes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.measurement.env import is_spinning, settle_spinning
from onnxopt.measurement.job import Answer, Effort, Subject
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.measurement.stats import Decision, decide, estimate, log_ratio, percentile
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["LatencyComparison", "Measurement", "Side", "compare_latency", "measure"]

COMPARED_SAMPLES = 8
"""More would leave too few runs of each for a low quantile."""
MEASURED_SAMPLES = 64
MEASURED_RUNS = 662
"""Runs that allow a 99th percentile."""
LONGEST_SECONDS = 120.0
"""An unclear case gets no further process after this time: where one takes long, fifteen are too many to wait for."""
COLD = Effort(rounds=1, least_seconds=0, warm_up=False)


@dataclass(frozen=True)
class Side:
    """One model of a comparison.

    Attributes:
        p25_ms: 25th percentile over all runs of all processes: the figure that is compared, process by process.
        p50_ms: Median over the same.
        load_ms: Time to create the session, median over processes.
        first_run_ms: Time of the first run, median over processes.
        peak_rss_mb: Peak resident memory (MiB) of a process that loads only this model and runs each sample once or
            twice, the interpreter and the samples included; ``None`` where the system does not tell.
    """

    p25_ms: float
    p50_ms: float
    load_ms: float
    first_run_ms: float
    peak_rss_mb: float | None


@dataclass(frozen=True)
class LatencyComparison:
    """A candidate's latency against the reference's.

    Attributes:
        decision: ``"faster"``, ``"slower"``, ``"same"`` (within the margin), or ``"inconclusive"``.
        ratio: Candidate / reference, below 1 is faster: geometric mean over processes of the ratios of p25.
        median_ratio: Median over processes of the same.
        low: Lower end of the 90 % interval of the ratio.
        high: Upper end: with 95 % confidence the candidate is no slower than this.
        mde: Smallest relative change that these processes would find 4 times in 5.
        margin: Relative slow-down that counts as the same.
        processes: Worker processes.
        pairs: Pairs of runs, over all processes.
        spinning: Whether idle threads waited by spinning (off where the machine is shared or one thread runs).
        reference: Figures of the reference.
        candidate: Figures of the candidate.
        process_ratios: The ratio that each process saw.
    """

    decision: Decision
    ratio: float
    median_ratio: float
    low: float
    high: float
    mde: float
    margin: float
    processes: int
    pairs: int
    spinning: bool
    reference: Side
    candidate: Side
    process_ratios: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """Latency, throughput, start and memory of one model.

    Attributes:
        n: Timed runs, over all processes.
        processes: Worker processes.
        p25_ms: 25th percentile.
        p50_ms: Median.
        p90_ms: 90th percentile, ``None`` below 64 runs.
        p99_ms: 99th percentile, ``None`` below 662 runs.
        mean_ms: Mean.
        throughput: Samples a second, one call after the other: batch size over the mean.
        batch_size: Samples of one call.
        load_ms: Time to create the session, median over processes.
        first_run_ms: Time of the first run, median over processes.
        peak_rss_mb: Peak resident memory (MiB) of a worker, largest over processes; ``None``: unknown.
        spinning: Whether idle threads waited by spinning.
    """

    n: int
    processes: int
    p25_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    throughput: float
    batch_size: int
    load_ms: float
    first_run_ms: float
    peak_rss_mb: float | None
    spinning: bool


def compare_latency(
    reference: Path,
    candidate: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    candidate_target: Target | None = None,
    margin: float = 0.03,
    min_processes: int = 5,
    max_processes: int = 15,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyComparison:
    """Whether the candidate is faster than the reference, decided as ``stats.decide`` says.

    Each fresh process opens both models and times them in interleaved pairs; processes are added until the case is
    decided. Never are two processes at work at once.

    Args:
        reference: Model file to compare with.
        candidate: Model file in question.
        feeds: Samples that both models take; at most eight of them, evenly spaced, are run in turn.
        target: Where both run.
        candidate_target: Where the candidate runs, if elsewhere.
        margin: Relative slow-down that counts as the same.
        min_processes: Processes before an unclear case is judged.
        max_processes: Processes after which it is left undecided.
        seed: Seeds the order of the runs.
        progress: Told of each process.

    Raises:
        ModelError: A model cannot be loaded, or crashed its process.
        ProviderError: The provider cannot be used.
        DataError: There is no sample, or a model does not run on one.
    """
    progress = progress or SilentProgress()
    samples = spread(feeds, COMPARED_SAMPLES)
    shared = settle_spinning(target, paired=True)
    own = shared if candidate_target is None else settle_spinning(candidate_target, paired=True)
    subjects = Subject(str(reference.resolve()), shared), Subject(str(candidate.resolve()), own)
    ratios: list[float] = []
    answers: list[Answer] = []
    decision: Decision | None = None
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        progress.task("measuring latency", None) as advance,
    ):
        laboratory = Laboratory(Path(folder), samples)
        cold = [laboratory.run([subject], COLD, seed) for subject in subjects]
        begin = time.monotonic()
        while decision is None:
            answers.append(laboratory.run(subjects, Effort(), seed + len(answers)))
            ratios.append(_process_ratio(answers[-1], samples))
            late = len(ratios) >= min_processes and time.monotonic() - begin > LONGEST_SECONDS
            most = len(ratios) if late else max_processes
            decision = decide(ratios, margin=margin, min_processes=min_processes, max_processes=most)
            advance(1)
    found = estimate(ratios)
    sides = [_side(answers, cold[k], k) for k in (0, 1)]
    return LatencyComparison(
        decision=decision,
        ratio=found.ratio,
        median_ratio=found.median,
        low=found.low,
        high=found.high,
        mde=found.mde,
        margin=margin,
        processes=len(answers),
        pairs=sum(len(a.timings[0].runs_ns) for a in answers),
        spinning=is_spinning(shared) or is_spinning(own),
        reference=sides[0],
        candidate=sides[1],
        process_ratios=tuple(float(np.exp(r)) for r in ratios),
    )


def measure(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    batch_size: int | None = None,
    processes: int = 3,
    seconds: float = 3.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """The latency of one model, pooled over fresh processes.

    Args:
        path: Model file.
        feeds: Samples to run in turn; at most 64 of them, evenly spaced.
        target: Where it runs.
        batch_size: Samples of one call; default: the first axis of the first input.
        processes: Fresh processes, one after the other.
        seconds: Longest time of timed runs in each; a process ends earlier with its share of 662 runs.
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
    subject = Subject(str(path.resolve()), settled)
    effort = Effort(rounds=-(-MEASURED_RUNS // processes), most_seconds=seconds)
    answers: list[Answer] = []
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        progress.task(f"measuring {path.name}", processes) as advance,
    ):
        laboratory = Laboratory(Path(folder), samples)
        for i in range(processes):
            answers.append(laboratory.run([subject], effort, seed + i))
            advance(1)
    times = _times_ms(answers, 0)
    mean = statistics.fmean(times)
    batch = _batch_size(samples[0]) if batch_size is None else batch_size
    return Measurement(
        n=len(times),
        processes=processes,
        p25_ms=float(np.percentile(times, 25)),
        p50_ms=statistics.median(times),
        p90_ms=percentile(times, 90),
        p99_ms=percentile(times, 99),
        mean_ms=mean,
        throughput=1e3 * batch / mean,
        batch_size=batch,
        load_ms=_median_ms(a.timings[0].load_ns for a in answers),
        first_run_ms=_median_ms(a.timings[0].first_run_ns for a in answers),
        peak_rss_mb=_peak_mb(answers),
        spinning=is_spinning(settled),
    )


def _process_ratio(answer: Answer, samples: Sequence[Feeds]) -> float:
    kinds = [tuple((name, array.shape) for name, array in sample.items()) for sample in samples]
    reference, candidate = (timing.runs_ns for timing in answer.timings)
    return log_ratio(reference, candidate, [kinds[i % len(kinds)] for i in range(len(reference))])


def _side(answers: Sequence[Answer], cold: Answer, k: int) -> Side:
    times = _times_ms(answers, k)
    return Side(
        p25_ms=float(np.percentile(times, 25)),
        p50_ms=statistics.median(times),
        load_ms=_median_ms(a.timings[k].load_ns for a in answers),
        first_run_ms=_median_ms(a.timings[k].first_run_ns for a in answers),
        peak_rss_mb=_peak_mb([cold]),
    )


def _times_ms(answers: Iterable[Answer], k: int) -> list[float]:
    return [ns / 1e6 for answer in answers for ns in answer.timings[k].runs_ns]


def _median_ms(times_ns: Iterable[int]) -> float:
    return statistics.median(times_ns) / 1e6


def _peak_mb(answers: Iterable[Answer]) -> float | None:
    peaks = [answer.peak_rss_bytes for answer in answers if answer.peak_rss_bytes is not None]
    return max(peaks) / 2**20 if peaks else None


def _batch_size(sample: Feeds) -> int:
    first = next(iter(sample.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1
