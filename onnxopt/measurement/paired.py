"""Two models compared: both in each of several fresh processes, run by run in random order."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.measurement.env import is_spinning, settle_spinning
from onnxopt.measurement.job import Answer, Effort, Subject, median_ms, peak_mb, times_ms
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.measurement.start import COLD
from onnxopt.measurement.stats import Decision, decide, estimate, holds, log_ratio
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["MOST_PROCESSES", "LatencyComparison", "Side", "compare_latency", "process_ratio"]

MOST_PROCESSES = 15
COMPARED_SAMPLES = 8
"""More would leave too few runs of each for a low quantile."""
VARIED_SAMPLES = 24
LEAST_RUNS = 10
"""Of each of these: the fastest of two, five times."""
LONGEST_SECONDS = 120.0
"""An unclear case gets no further process after this time: where one takes long, fifteen are too many to wait for."""
PASS_SECONDS = 2.0
"""Where both models take longer than this for all samples, each process runs fewer of them: a process has runs to
spare for each only then, and long runs are less noisy than short ones."""
FEWEST_SAMPLES = 2
EFFORT, LONG_EFFORT = Effort(), Effort(least_rounds=6)
MARGIN = 0.03


@dataclass(frozen=True)
class Side:
    """One model of a comparison.

    Attributes:
        p25_ms: 25th percentile over all runs of all processes.
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
        ratio: Candidate / reference, below 1 is faster: geometric mean over processes (``log_ratio``).
        median_ratio: Median over processes of the same.
        low: Lower end of the 90 % interval of the ratio.
        high: Upper end: with 95 % confidence the candidate is no slower than this.
        mde: Smallest relative change that these processes would find 4 times in 5.
        margin: Relative slow-down that counts as the same.
        limit: The ratio that must not be reached, where one was given.
        holds: Whether the ratio stays below ``limit``; ``None``: no limit, or undecided.
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
    limit: float | None
    holds: bool | None
    processes: int
    pairs: int
    spinning: bool
    reference: Side
    candidate: Side
    process_ratios: tuple[float, ...]


def compare_latency(
    reference: Path | Sequence[Path],
    candidate: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    candidate_target: Target | None = None,
    margin: float = MARGIN,
    limit: float | None = None,
    min_processes: int = 5,
    max_processes: int = MOST_PROCESSES,
    by_sample: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyComparison:
    """Whether the candidate is faster than the reference, decided as ``stats.decide`` says, or within a limit.

    Each fresh process opens both models and times them in interleaved pairs; processes are added until the case is
    decided. Never are two processes at work at once.

    Args:
        reference: Model file to compare with; several: separate sessions that are run one after the other.
        candidate: Model file in question.
        feeds: Samples that both models take; at most eight of them, evenly spaced, are run in turn (fewer where a run
            takes long, of small and large ones alike).
        target: Where both run.
        candidate_target: Where the candidate runs, if elsewhere.
        margin: Relative slow-down that counts as the same.
        limit: Go on until it is clear whether the ratio stays below this (``stats.holds``), instead of which is faster.
        min_processes: Processes before an unclear case is judged.
        max_processes: Processes after which it is left undecided.
        by_sample: The time depends on the values: more samples are run, and the ratio is that of the mean over them.
        seed: Seeds the order of the runs.
        progress: Told of each process.

    Raises:
        ModelError: A model cannot be loaded, or crashed its process.
        ProviderError: The provider cannot be used.
        DataError: There is no sample, or a model does not run on one.
    """
    progress = progress or SilentProgress()
    samples = spread(feeds, VARIED_SAMPLES if by_sample else COMPARED_SAMPLES)
    effort = Effort(rounds=LEAST_RUNS * len(samples), least_rounds=LEAST_RUNS * len(samples)) if by_sample else EFFORT
    shared = settle_spinning(target, paired=True)
    own = shared if candidate_target is None else settle_spinning(candidate_target, paired=True)
    first = [str(path.resolve()) for path in ([reference] if isinstance(reference, Path) else reference)]
    subjects = Subject(first[0], shared, tuple(first[1:])), Subject(str(candidate.resolve()), own)
    ratios: list[float] = []
    answers: list[Answer] = []
    least = min(min_processes, max_processes)
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        progress.task("measuring latency", max_processes + len(subjects)) as advance,
    ):
        laboratory = Laboratory(Path(folder), samples)
        cold: list[Answer] = []
        for subject in subjects:
            cold.append(laboratory.run([subject], COLD, seed))
            advance(1)
        if not by_sample:
            samples, effort = _affordable(samples, cold)
            laboratory = Laboratory(Path(folder), samples)
        begin = time.monotonic()
        while True:
            answers.append(laboratory.run(subjects, effort, seed + len(answers)))
            ratios.append(process_ratio(answers[-1], samples, by_sample=by_sample))
            advance(1)
            late = len(ratios) >= least and time.monotonic() - begin > LONGEST_SECONDS
            decision = decide(ratios, margin=margin, min_processes=least)
            settled = decision if limit is None else holds(ratios, limit=limit, min_processes=least)
            if settled is not None or late or len(ratios) >= max_processes:
                break
    found = estimate(ratios)
    sides = [_side(answers, cold[k], k) for k in (0, 1)]
    return LatencyComparison(
        decision=decision or "inconclusive",
        ratio=found.ratio,
        median_ratio=found.median,
        low=found.low,
        high=found.high,
        mde=found.mde,
        margin=margin,
        limit=limit,
        holds=None if limit is None else holds(ratios, limit=limit, min_processes=least),
        processes=len(answers),
        pairs=sum(len(a.timings[0].runs_ns) for a in answers),
        spinning=is_spinning(shared) or is_spinning(own),
        reference=sides[0],
        candidate=sides[1],
        process_ratios=tuple(float(np.exp(r)) for r in ratios),
    )


def _affordable(samples: Sequence[Feeds], cold: Sequence[Answer]) -> tuple[Sequence[Feeds], Effort]:
    """The samples that one process runs in turn, and how long: all of them, or where they take long, a few by size."""
    sizes = [sum(array.size for array in sample.values()) for sample in samples]
    order = sorted(range(len(samples)), key=sizes.__getitem__)
    first_s = sum(answer.timings[0].runs_ns[0] for answer in cold) / 1e9
    pass_s = first_s * sum(sizes) / max(sizes[0], 1)
    count = max(FEWEST_SAMPLES, int(len(samples) * PASS_SECONDS / max(pass_s, 1e-9)))
    if count >= len(samples):
        return samples, EFFORT
    middles = ((2 * i + 1) * len(samples) // (2 * count) for i in range(count))
    return [samples[order[i]] for i in middles], LONG_EFFORT


def process_ratio(
    answer: Answer, samples: Sequence[Feeds], *, reference: int = 0, candidate: int = 1, by_sample: bool = False
) -> float:
    """The log of the latency ratio of two models within one process; ``reference``, ``candidate``: their places."""
    kinds: list[Hashable] = [
        i if by_sample else tuple((name, array.shape) for name, array in sample.items())
        for i, sample in enumerate(samples)
    ]
    first, second = answer.timings[reference].runs_ns, answer.timings[candidate].runs_ns
    return log_ratio(first, second, [kinds[i % len(kinds)] for i in range(len(first))])


def _side(answers: Sequence[Answer], cold: Answer, k: int) -> Side:
    times = times_ms(answers, k)
    return Side(
        p25_ms=float(np.percentile(times, 25)),
        p50_ms=statistics.median(times),
        load_ms=median_ms(a.timings[k].load_ns for a in answers),
        first_run_ms=median_ms(a.timings[k].first_run_ns for a in answers),
        peak_rss_mb=peak_mb([cold.peak_rss_bytes]),
    )
