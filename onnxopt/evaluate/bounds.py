"""One-sided upper bounds of the paired drop, and how many samples a limit takes.

Both models judge the same items, so only the items on which they differ carry information.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from onnxopt.evaluate.metrics import RowMetric, score_drop
from onnxopt.evaluate.rows import Rows, regroup

__all__ = ["LEVEL", "Discordant", "bootstrap_upper", "count_discordant", "drop_bound", "needed_samples", "tango_upper"]

LEVEL = 0.95
REPLICATES = 2000
MIN_ITEMS = 10
"""Fewer rows than this give no bootstrap bound."""
MAX_ITEMS = 5_000
"""More rows than this are added up in groups first: the bound of so many does not need single ones."""
CHUNK = 2_000_000


@dataclass(frozen=True)
class Discordant:
    """Items on which one model is right and the other wrong.

    Attributes:
        lost: Only the reference is right.
        gained: Only the candidate is right.
    """

    lost: int
    gained: int


def count_discordant(metric: RowMetric, reference: Rows, candidate: Rows) -> Discordant | None:
    """The discordant pairs when each row of both is ``[0 or 1, 1]``, else ``None``."""
    if not metric.proportion or reference.shape[1] != 2:
        return None
    both = np.stack([reference, candidate])
    if not bool(np.isin(both[..., 0], (0.0, 1.0)).all() and (both[..., 1] == 1.0).all()):
        return None
    difference = reference[:, 0] - candidate[:, 0]
    return Discordant(int((difference > 0).sum()), int((difference < 0).sum()))


def drop_bound(
    metric: RowMetric, reference: Rows, candidate: Rows, *, seed: int = 0, level: float = LEVEL
) -> float | None:
    """Upper bound of the drop at ``level``, from paired rows ``(n, k)``; ``None``: too few items to say.

    Tango's score interval for right-or-wrong rows; for other rows the paired bootstrap. Where a metric of counted
    events shows no difference on any of n items, the bound is that of a share never seen, 1 - (1 - level)^(1/n), about
    3 / n.
    """
    pairs = count_discordant(metric, reference, candidate)
    if pairs is not None:
        return tango_upper(pairs.lost, pairs.gained, len(reference), level) if len(reference) else None
    if len(reference) < MIN_ITEMS:
        return None
    if metric.counts and np.array_equal(reference, candidate):
        return 1 - (1 - level) ** (1 / len(reference))
    return bootstrap_upper(metric, reference, candidate, seed=seed, level=level)


def tango_upper(lost: float, gained: float, count: int, level: float = LEVEL) -> float:
    """Upper score bound of the difference of two paired proportions.

    Args:
        lost: Pairs (b) of which only the first is right.
        gained: Pairs (c) of which only the second is right.
        count: All pairs (n), from 1.
        level: One-sided level.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998) 891-908. The bound is the larger root D of

        (n D - (b - c)) / sqrt(n (2 q + D (1 - D))) = z,

    with q, the maximum-likelihood estimate of the share of c under the difference D,

        q = (sqrt(B^2 - 4 A C) - B) / (2 A),   A = 2 n,   B = -b - c + (2 n - b + c) D,   C = -c D (1 - D).

    For b = c = 0 it is z^2 / (n + z^2), about 2.7 / n at 95 %. Its real level for very rare differences falls to about
    93 %, as that of every score interval.
    """
    z = NormalDist().inv_cdf(level)
    b, c, n = float(lost), float(gained), float(count)

    def exceeds(difference: float) -> bool:
        linear = -b - c + (2 * n - b + c) * difference
        constant = -c * difference * (1 - difference)
        share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
        spread = n * (2 * share + difference * (1 - difference))
        return n * difference - (b - c) >= z * math.sqrt(max(0.0, spread))

    low, high = (b - c) / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return high


def bootstrap_upper(
    metric: RowMetric,
    reference: Rows,
    candidate: Rows,
    *,
    seed: int = 0,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> float | None:
    """Upper BCa bound of the drop from items drawn again with replacement, both models' rows together.

    With ``p`` the share of replicates below the observed drop (ties half), ``z0 = inv_cdf(p)``, ``z`` the level and the
    acceleration ``a = sum d^3 / (6 (sum d^2)^1.5)`` of the jackknife deviations ``d``, the bound is the quantile
    ``cdf(z0 + (z0 + z) / (1 - a (z0 + z)))`` of the replicates.

    Source: B. Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987) 171-185.
    ``None`` where scores are undefined.
    """
    factor = -(-len(reference) // MAX_ITEMS)
    both = np.concatenate([regroup(reference, factor), regroup(candidate, factor)], axis=1)
    total = both.sum(axis=0, keepdims=True)
    if not np.isfinite(total).all():
        return None
    observed = float(_drops(metric, total)[0])
    items = len(both)
    rng = np.random.default_rng(seed)
    drops: list[Rows] = []
    step = max(1, CHUNK // items)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        drawn = rng.integers(0, items, (size, items)) + np.arange(size)[:, None] * items
        weights = np.bincount(drawn.reshape(-1), minlength=size * items).reshape(size, items)
        drops.append(_drops(metric, weights.astype(np.float64) @ both))
    sample = np.concatenate(drops)
    sample = sample[~np.isnan(sample)]
    if not sample.size or math.isnan(observed):
        return None
    normal = NormalDist()
    below = (float((sample < observed).sum()) + 0.5 * float((sample == observed).sum())) / len(sample)
    bias = normal.inv_cdf(min(max(below, 0.5 / len(sample)), 1 - 0.5 / len(sample)))
    moved = bias + normal.inv_cdf(level)
    slope = 1 - _acceleration(metric, total, both) * moved
    share = normal.cdf(bias + moved / slope) if slope > 0 else 1.0
    return float(np.quantile(sample, share, method="higher"))


def needed_samples(drop_limit: float, disagreement: float, drop: float = 0.0, level: float = LEVEL) -> int | None:
    """Samples from which Tango's bound stays within ``drop_limit``; ``None`` where no number is enough.

    Args:
        drop_limit: Drop that is to be ruled out, above 0.
        disagreement: Share of items on which just one of the models is right.
        drop: The drop that is expected (at most the disagreement).
        level: One-sided level.
    """
    if drop >= drop_limit or drop_limit <= 0:
        return None
    lost, gained = (disagreement + drop) / 2, max(0.0, (disagreement - drop) / 2)

    def suffices(count: int) -> bool:
        return tango_upper(lost * count, gained * count, count, level) <= drop_limit

    high = 1
    while not suffices(high):
        high *= 2
        if high > 1 << 40:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _drops(metric: RowMetric, sums: Rows) -> Rows:
    """Drops of ``(m, 2 k)`` column sums, reference first."""
    width = sums.shape[1] // 2
    return score_drop(metric, metric.score(sums[:, :width]), metric.score(sums[:, width:]))


def _acceleration(metric: RowMetric, total: Rows, both: Rows) -> float:
    left_out = _drops(metric, total - both)
    left_out = left_out[np.isfinite(left_out)]
    if not left_out.size:
        return 0.0
    deviation = left_out.mean() - left_out
    scale = float((deviation**2).sum()) ** 1.5
    return float((deviation**3).sum()) / (6 * scale) if scale > 0 else 0.0
