"""From the times of several processes to a decision.

Interleaved pairs in fresh processes; one number a process: the median, over blocks of pairs, of the ratio of the
fastest runs. What else a machine does only ever makes a run longer, in bursts: the minimum of a block drops the bursts,
the pair drops slow drifts. On traces of two threads on two cores, one of them busy, this number has a spread of 0.8 to
1.0 points over processes, the ratio of the 25th percentiles one of 0.9 to 3.6, the median of the pair ratios one of 1.6
to 18, the ratio of means one of 24 to 44; on one thread the first three have about 0.5
(``benchmarks/gate_statistic.py``). An interval within a single process is too narrow, since the
placement of a session in memory alone changes its speed. The interval over the processes must satisfy two rules at
once: Student's t, and the sign interval for the median (order statistics), because a busy machine gives single
processes that are far off, and t alone is then wrong.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "SAMPLES_FOR",
    "Decision",
    "Estimate",
    "decide",
    "estimate",
    "estimate_apart",
    "holds",
    "is_below",
    "is_quantile_below",
    "log_ratio",
    "percentile",
]

Decision = Literal["faster", "slower", "same", "inconclusive"]

CONFIDENCE = 0.90
CLEAR_CONFIDENCE = 0.99
LEAST_PROCESSES = 3
CLEAR_BY = 0.01
"""Smaller differences are never claimed: two sessions of one model differ by up to 1 % through memory layout."""
BLOCK = 12
"""Pairs of a block: enough that each side has a run which nothing else disturbed."""
LEAST_BLOCKS = 5
TOLERANCE = 1.02
"""A ratio this far below a limit, or further, is never reported to break it."""
SAMPLES_FOR = {90: 64, 99: 662}
"""Runs below which a percentile is not claimed (MLPerf LoadGen's early-stopping minima at 99 % confidence)."""


@dataclass(frozen=True)
class Estimate:
    """A ratio of latencies, from one log ratio a process.

    Attributes:
        ratio: Geometric mean over the processes, the centre of the interval.
        median: Median over the processes.
        low: Lower end of the two-sided interval: the hull of the t interval and the sign interval.
        high: Upper end.
        mde: Smallest relative change that this many processes of this spread find 4 times in 5: ``2.8 s / sqrt(n)``.
    """

    ratio: float
    median: float
    low: float
    high: float
    mde: float


def log_ratio(reference: Sequence[float], candidate: Sequence[float], kinds: Sequence[Hashable]) -> float:
    """The log of the latency ratio candidate / reference within one process.

    The pairs are cut into blocks; the ratio of a block is that of the two fastest runs in it, and the median over the
    blocks is the result. Kinds of samples (sets of input shapes) have blocks of their own; their ratios are weighted by
    the time that the reference spends on each.

    Args:
        reference: Times of the reference's runs.
        candidate: Times of the candidate's runs, pair by pair.
        kinds: The kind of sample of each pair.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(i)
    weights, ratios = list[float](), list[float]()
    for rows in groups.values():
        first, second = (np.asarray([times[i] for i in rows], np.float64) for times in (reference, candidate))
        size = max(1, min(BLOCK, len(rows) // LEAST_BLOCKS))
        count = len(rows) // size
        lowest = [times[: count * size].reshape(count, size).min(axis=1) for times in (first, second)]
        ratios.append(float(np.exp(np.median(np.log(lowest[1] / lowest[0])))))
        weights.append(len(rows) * float(np.median(lowest[0])))
    return math.log(float(np.average(ratios, weights=weights)))


def estimate(log_ratios: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The ratio over processes with its two-sided interval (unbounded for a single process)."""
    count, mean = len(log_ratios), statistics.fmean(log_ratios)
    ranked, drop = sorted(log_ratios), _sign_rank(len(log_ratios), confidence)
    error = statistics.stdev(log_ratios) / math.sqrt(count) if count > 1 else math.inf
    half = _t_quantile(count - 1, confidence) * error if count > 1 else math.inf
    return Estimate(
        ratio=math.exp(mean),
        median=math.exp(statistics.median(log_ratios)),
        low=math.exp(min(mean - half, ranked[drop])),
        high=math.exp(max(mean + half, ranked[count - 1 - drop])),
        mde=2.8 * error,
    )


def estimate_apart(reference: Sequence[float], candidate: Sequence[float]) -> Estimate:
    """The ratio candidate / reference from log latencies that were not measured in pairs (Welch's interval).

    Args:
        reference: One log latency a process.
        candidate: One log latency a process.
    """
    parts = [(statistics.variance(logs) / len(logs), len(logs) - 1) for logs in (reference, candidate)]
    variance = sum(share for share, _ in parts)
    degrees = variance**2 / sum(share**2 / free for share, free in parts) if variance > 0 else 1.0
    middle = statistics.fmean(candidate) - statistics.fmean(reference)
    half = _t_quantile(degrees, CONFIDENCE) * math.sqrt(variance)
    return Estimate(
        ratio=math.exp(middle),
        median=math.exp(statistics.median(candidate) - statistics.median(reference)),
        low=math.exp(middle - half),
        high=math.exp(middle + half),
        mde=2.8 * math.sqrt(variance),
    )


def decide(log_ratios: Sequence[float], *, margin: float, min_processes: int) -> Decision | None:
    """What the processes so far show, or ``None``: more are needed.

    With ``min_processes`` or more, by the 90 % interval (an error of 5 % on each side): faster when it lies below 0.99,
    slower when it lies above 1.01, same when it lies below 1 + ``margin``. From the third process on a difference that
    is clear at 99 % decides already.

    Args:
        log_ratios: One log ratio candidate / reference a process.
        margin: Relative slow-down that counts as the same.
        min_processes: Processes before an unclear case is judged.
    """
    found, enough = _look(log_ratios, min_processes)
    if found is None:
        return None
    if found.high < 1 - CLEAR_BY:
        return "faster"
    if found.low > 1 + CLEAR_BY:
        return "slower"
    return "same" if enough and found.high < 1 + margin else None


def holds(log_ratios: Sequence[float], *, limit: float, min_processes: int) -> bool | None:
    """Whether the ratio stays below ``limit`` (``is_below``), or ``None``: more processes are needed.

    Args:
        log_ratios: One log ratio candidate / reference a process.
        limit: The ratio that must not be reached.
        min_processes: Processes before an unclear case is judged; a clear one is from the third on.
    """
    found, _ = _look(log_ratios, min_processes)
    return None if found is None else is_below(found, limit)


def is_below(found: Estimate, limit: float) -> bool | None:
    """Whether a ratio stays below ``limit``; ``None``: its interval does not tell.

    It does when the upper end lies below ``limit``. It does not when the lower end lies above ``limit / 1.02`` while
    the upper end is not below ``limit``: with the usual limit of 1.03 the candidate is then slower by 1 % for certain,
    and by 3 % for all that is known. A true ratio at the limit is so reported as broken, not as unclear.
    """
    if found.high < limit:
        return True
    return False if found.low > limit / TOLERANCE else None


def _look(log_ratios: Sequence[float], min_processes: int) -> tuple[Estimate | None, bool]:
    """The estimate that may be judged now, if any, and whether ``min_processes`` is reached."""
    enough = len(log_ratios) >= min_processes
    if not enough and len(log_ratios) < LEAST_PROCESSES:
        return None, enough
    return estimate(log_ratios, CONFIDENCE if enough else CLEAR_CONFIDENCE), enough


def percentile(times: Sequence[float], q: int) -> float | None:
    """The ``q``-th percentile, or ``None`` when there are too few times to claim it (p90: 64, p99: 662)."""
    if len(times) < SAMPLES_FOR.get(q, 1):
        return None
    return float(np.percentile(times, q))


def is_quantile_below(times: Sequence[float], q: int, limit: float) -> bool | None:
    """Whether the ``q``-th percentile lies below ``limit``, at 95 % confidence; ``None``: these times do not tell.

    By the exact binomial interval (Clopper and Pearson 1934) of the share of times that reach the limit.
    """
    from scipy.special import betaincinv

    count, above = len(times), sum(t >= limit for t in times)
    share = 1 - q / 100
    highest = float(betaincinv(above + 1, count - above, 0.95)) if above < count else 1.0
    lowest = float(betaincinv(above, count - above + 1, 0.05)) if above else 0.0
    if highest <= share:
        return True
    return False if lowest > share else None


def _sign_rank(count: int, confidence: float) -> int:
    """How many of the smallest (and largest) of ``count`` values lie outside the interval for their median.

    The largest ``k`` with ``P(Binomial(count, 1/2) <= k) <= (1 - confidence) / 2``; 0 where there is none.
    """
    tail, rank = 0.0, 0
    for k in range(count // 2):
        tail += math.comb(count, k) / 2**count
        if tail <= (1 - confidence) / 2:
            rank = k
    return rank


def _t_quantile(degrees: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))
