from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.evaluate.bounds import (
    Discordant,
    bootstrap_upper,
    count_discordant,
    drop_bound,
    needed_samples,
    tango_upper,
)
from onnxopt.evaluate.metrics import RowMetric, choose_metric

Z = 1.6448536269514722


def metric(name: str, outputs: np.ndarray, labels: np.ndarray) -> RowMetric:
    chosen = choose_metric(name, outputs, has_labels=True, labels=labels)
    assert isinstance(chosen, RowMetric)
    return chosen


TOP1 = metric("top1", np.zeros((1, 3), np.float32), np.zeros(1, int))
RMSE = metric("rmse", np.zeros((1, 1)), np.zeros(1))
F1 = metric("f1", np.zeros((1, 3), np.float32), np.zeros(1, int))


@pytest.mark.parametrize("count", [1, 10, 256, 5000])
def test_no_discordant_pair_leaves_a_doubt_of_about_three_in_n(count: int) -> None:
    assert tango_upper(0, 0, count) == pytest.approx(Z**2 / (count + Z**2))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 400))
def test_tangos_bound_solves_the_score_equation(lost: int, gained: int, extra: int) -> None:
    count = lost + gained + extra
    bound = tango_upper(lost, gained, count)
    assert (lost - gained) / count < bound < 1

    def log_likelihood(share: float) -> float:
        cells = [(lost, share + bound), (gained, share), (extra, 1 - 2 * share - bound)]
        return sum(n * math.log(max(p, 1e-300)) for n, p in cells if n)

    low, high = max(0.0, -bound), (1 - bound) / 2
    for _ in range(200):  # the restricted maximum by golden-section search, not by the closed form
        a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
        low, high = (a, high) if log_likelihood(a) < log_likelihood(b) else (low, b)
    share = (low + high) / 2
    spread = math.sqrt(count * (2 * share + bound * (1 - bound)))
    assert (count * bound - (lost - gained)) / spread == pytest.approx(Z, rel=1e-4)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 100))
def test_tangos_bound_grows_with_losses_and_shrinks_with_gains(lost: int, gained: int, extra: int) -> None:
    count = lost + gained + extra + 1
    bound = tango_upper(lost, gained, count)
    assert tango_upper(lost + 1, gained, count) > bound or bound == 1
    assert tango_upper(lost, gained + 1, count) < bound
    assert bound <= 1


def test_tangos_bound_where_all_pairs_are_lost_or_gained() -> None:
    assert tango_upper(20, 0, 20) == 1.0
    assert -1 < tango_upper(0, 20, 20) < -0.7


@pytest.mark.parametrize(("lost", "gained"), [(0.05, 0.02), (0.1, 0.1), (0.03, 0.0), (0.3, 0.1)])
def test_the_true_drop_is_rarely_above_tangos_bound(lost: float, gained: float) -> None:
    rng = np.random.default_rng(11)
    drawn, times = np.unique(rng.multinomial(200, [lost, gained, 1 - lost - gained], 4000), axis=0, return_counts=True)
    missed = sum(t for (b, c, _), t in zip(drawn, times, strict=True) if tango_upper(b, c, 200) < lost - gained)
    assert missed / 4000 < 0.065


def rmse_rows(rng: np.random.Generator, count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    error = rng.normal(size=count)
    both = [error**2, (error + noise * rng.normal(size=count)) ** 2]
    first, second = (np.stack([e, np.ones(count)], axis=1) for e in both)
    return first, second


def test_the_true_drop_is_rarely_above_the_bootstraps_bound() -> None:
    rng = np.random.default_rng(12)
    true = math.sqrt(1 + 0.3**2) - 1
    bounds = [bootstrap_upper(RMSE, *rmse_rows(rng, 150, 0.3), replicates=600) for _ in range(400)]
    assert np.mean([b < true for b in bounds if b is not None]) < 0.09
    assert np.median([b for b in bounds if b is not None]) < 3 * true


def test_the_true_drop_of_macro_f1_is_rarely_above_its_bound() -> None:
    rng = np.random.default_rng(13)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 3, count)
        first = np.where(rng.random(count) < 0.9, labels, rng.integers(0, 3, count))
        second = np.where(rng.random(count) < 0.9, first, rng.integers(0, 3, count))
        return tuple(F1.rows(np.eye(3, dtype=np.float32)[p], labels) for p in (first, second))  # type: ignore[return-value]

    def drop(first: np.ndarray, second: np.ndarray) -> float:
        return float(F1.score(first.sum(axis=0)) - F1.score(second.sum(axis=0)))

    true = drop(*rows(400_000))
    bounds = [drop_bound(F1, *rows(150), seed=i) for i in range(120)]
    assert np.mean([b < true for b in bounds if b is not None]) < 0.1


def test_bounds_of_pairs_without_a_difference() -> None:
    ones = np.ones((300, 2))
    assert drop_bound(TOP1, ones, ones) == pytest.approx(tango_upper(0, 0, 300))
    confusion = F1.rows(np.eye(3, dtype=np.float32)[[0, 1, 2] * 100], np.array([0, 1, 2] * 100))
    assert drop_bound(F1, confusion, confusion) == pytest.approx(3 / 300, rel=0.01)
    squares = np.stack([np.arange(1.0, 31), np.ones(30)], axis=1)
    assert drop_bound(RMSE, squares, squares) == 0.0


def test_too_few_or_broken_items_give_no_bootstrap_bound() -> None:
    first, second = rmse_rows(np.random.default_rng(0), 9, 0.3)
    assert drop_bound(RMSE, first, second) is None
    first, second = rmse_rows(np.random.default_rng(0), 20, 0.3)
    second[3, 0] = np.inf
    assert drop_bound(RMSE, first, second) is None


def test_the_bootstrap_repeats_with_its_seed_and_serves_many_items() -> None:
    first, second = rmse_rows(np.random.default_rng(1), 50_000, 0.3)
    bounds = {drop_bound(RMSE, first, second, seed=s) for s in (1, 1)}
    assert len(bounds) == 1
    assert math.sqrt(1.09) - 1 < bounds.pop() < 0.06  # type: ignore[operator]


def test_discordant_pairs_are_counted_only_for_right_or_wrong_rows() -> None:
    first, second = np.array([[1.0, 1], [0, 1], [1, 1], [1, 1]]), np.array([[0.0, 1], [1, 1], [0, 1], [1, 1]])
    assert count_discordant(TOP1, first, second) == Discordant(lost=2, gained=1)
    assert count_discordant(RMSE, first, second) is None
    assert count_discordant(TOP1, 2 * first, 2 * second) is None


@pytest.mark.parametrize(("limit", "share"), list(itertools.product([0.005, 0.01, 0.05], [0.0, 0.02, 0.05])))
def test_needed_samples_is_where_the_bound_meets_the_limit(limit: float, share: float) -> None:
    count = needed_samples(limit, share)
    assert count is not None
    assert tango_upper(share * count / 2, share * count / 2, count) <= limit
    assert tango_upper(share * (count - 1) / 2, share * (count - 1) / 2, count - 1) > limit


def test_needed_samples_of_the_usual_case() -> None:
    assert needed_samples(0.01, 0.05) == pytest.approx(Z**2 * 0.05 / 0.01**2, rel=0.05)  # normal theory
    assert needed_samples(0.01, 0.05, drop=0.01) is None
    assert needed_samples(0.02, 0.05, drop=0.01) > needed_samples(0.02, 0.05)  # type: ignore[operator]
