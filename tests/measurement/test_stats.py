from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.measurement.stats import decide, estimate, holds, is_quantile_below, log_ratio, percentile

SETTINGS = {"margin": 0.03, "min_processes": 5}
MOST = 15


def decisions(true_ratio: float, spread: float, draws: int = 300) -> tuple[dict[str, float], float]:
    """Share of each decision over simulated experiments, and the mean number of processes."""
    rng = np.random.default_rng(0)
    seen: dict[str, int] = {}
    processes = 0
    for _ in range(draws):
        ratios: list[float] = []
        decision = None
        while decision is None and len(ratios) < MOST:
            ratios.append(math.log(true_ratio) + spread * float(rng.standard_normal()))
            decision = decide(ratios, **SETTINGS)
        name = decision or "inconclusive"
        seen[name] = seen.get(name, 0) + 1
        processes += len(ratios)
    return {name: count / draws for name, count in seen.items()}, processes / draws


@pytest.mark.parametrize("spread", [0.004, 0.01, 0.03])
def test_equal_models_are_rarely_called_different(spread: float) -> None:
    share, _ = decisions(1.0, spread)
    assert share.get("faster", 0) <= 0.08
    assert share.get("slower", 0) <= 0.03


def test_three_percent_slower_is_found_at_the_recorded_spread() -> None:
    share, _ = decisions(1.03, 0.004)
    assert share["slower"] >= 0.95


def test_a_clear_case_ends_before_the_minimum_of_processes() -> None:
    share, processes = decisions(0.7, 0.01)
    assert share == {"faster": 1.0}
    assert processes < 4


def test_too_much_noise_stays_undecided() -> None:
    share, processes = decisions(1.0, 0.3)
    assert share["inconclusive"] >= 0.75
    assert processes > 12


def test_one_wild_process_does_not_make_a_claim() -> None:
    same = [0.001, -0.002, 0.0, 0.002, -0.001]
    assert decide(same, **SETTINGS) == "same"
    assert decide([*same[:4], 0.5], **SETTINGS) is None
    assert decide([-0.03, -0.031, -0.029, -0.03, 0.004], **SETTINGS) != "faster"


def test_fewer_processes_than_usual_decide_when_asked() -> None:
    assert decide([-0.5, -0.5], margin=0.03, min_processes=2) == "faster"
    assert decide([0.0], margin=0.03, min_processes=1) is None


def test_interval_against_a_textbook_value() -> None:
    found = estimate([0.1, 0.2, 0.3])
    half = 2.91999 * 0.1 / math.sqrt(3)  # t(0.95, 2 degrees of freedom)
    assert found.low == pytest.approx(math.exp(0.2 - half), rel=1e-5)
    assert found.high == pytest.approx(math.exp(0.2 + half), rel=1e-5)
    assert found.ratio == pytest.approx(math.exp(0.2))
    assert found.mde == pytest.approx(2.8 * 0.1 / math.sqrt(3))


def test_one_process_gives_no_bound() -> None:
    found = estimate([0.1])
    assert (found.low, found.high) == (0.0, math.inf)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=15))
def test_interval_holds_ratio_and_median_and_turns_with_the_roles(log_ratios: list[float]) -> None:
    found, turned = estimate(log_ratios), estimate([-r for r in log_ratios])
    slack = 1 + 1e-9
    assert found.low <= found.ratio * slack <= found.high * slack**2
    assert found.low <= found.median * slack <= found.high * slack**2
    assert turned.low == pytest.approx(1 / found.high)


def test_log_ratio_ignores_preemption() -> None:
    rng = np.random.default_rng(1)
    reference = 10 + rng.normal(0, 0.05, 60)
    candidate = 8 + rng.normal(0, 0.05, 60)
    candidate[rng.choice(60, 20, replace=False)] += 200
    assert math.exp(log_ratio(reference, candidate, [0] * 60)) == pytest.approx(0.8, rel=0.01)


def test_log_ratio_weighs_every_input_length() -> None:
    kinds = ["short", "long"] * 20
    reference = [1.0, 9.0] * 20
    candidate = [1.0, 4.0] * 20  # the gain is on the long input only
    assert math.exp(log_ratio(reference, candidate, kinds)) == pytest.approx(0.5)


@pytest.mark.parametrize(("q", "least"), [(90, 64), (99, 662)])
def test_a_percentile_needs_its_sample(q: int, least: int) -> None:
    times = [float(i) for i in range(least)]
    assert percentile(times[:-1], q) is None
    assert percentile(times, q) == pytest.approx(np.percentile(times, q))


def outcomes(true_ratio: float, spread: float, limit: float, draws: int = 300) -> dict[bool | None, float]:
    """Share of each outcome of a gate over simulated experiments."""
    rng = np.random.default_rng(1)
    seen: dict[bool | None, int] = {}
    for _ in range(draws):
        ratios: list[float] = []
        found = None
        while found is None and len(ratios) < MOST:
            ratios.append(math.log(true_ratio) + spread * float(rng.standard_normal()))
            found = holds(ratios, limit=limit, min_processes=5)
        seen[found] = seen.get(found, 0) + 1
    return {name: count / draws for name, count in seen.items()}


@pytest.mark.parametrize("spread", [0.004, 0.01, 0.03])
def test_a_limit_is_not_broken_by_an_equal_model(spread: float) -> None:
    assert outcomes(1.0, spread, 1.03).get(False, 0) <= 0.01


@pytest.mark.parametrize(("ratio", "least"), [(1.03, 0.90), (1.05, 0.95), (1.10, 0.99)])
@pytest.mark.parametrize("limit", [1.03])
def test_a_slow_down_breaks_the_limit(ratio: float, least: float, limit: float) -> None:
    assert outcomes(ratio, 0.006, limit)[False] >= least


@pytest.mark.parametrize(("limit", "expected"), [(0.6, True), (0.5, False), (1.2, True)])
def test_limits_below_and_far_above_one(limit: float, expected: bool) -> None:
    assert outcomes(0.55, 0.01, limit) == {expected: 1.0}


def test_a_limit_that_noise_hides_is_undecided() -> None:
    assert outcomes(1.01, 0.2, 1.03)[None] >= 0.75


def test_a_percentile_is_judged_by_the_share_of_runs_beyond_the_limit() -> None:
    steady = [1.0] * 662
    assert is_quantile_below(steady, 99, 2.0) is True
    assert is_quantile_below([*steady, *[3.0] * 20], 99, 2.0) is False
    assert is_quantile_below([*steady, *[3.0] * 6], 99, 2.0) is None
    assert is_quantile_below([1.0] * 100, 99, 2.0) is None
    assert is_quantile_below([1.0] * 100, 90, 2.0) is True
    assert is_quantile_below([3.0] * 100, 99, 2.0) is False
