"""The open loop on a clock that only the runs move: queueing theory says what must come out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxopt.measurement.job import Effort, Load
from onnxopt.measurement.load import Served, serve

MS = 1_000_000
STEP_NS = 50_000
"""What looking at the clock once more takes."""


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += max(int(seconds * 1e9), STEP_NS)


Serve = Callable[..., Served]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves runs that take 1 ms, or what ``stalls`` says for a run by its number."""

    def call(
        effort: Effort, rate: float | None, *, service_ns: int = MS, stalls: dict[int, int] | None = None
    ) -> Served:
        clock, count = Clock(), 0
        monkeypatch.setattr("onnxopt.measurement.load.time", clock)

        def run() -> None:
            nonlocal count
            clock.now_ns += (stalls or {}).get(count, service_ns)
            count += 1

        return serve([[run]], Load(1, rate), effort, 3, lambda: None)

    return call


@pytest.mark.parametrize("utilization", [0.3, 0.7, 0.9])
def test_waiting_times_are_those_of_an_m_d_1_queue(served: Serve, utilization: float) -> None:
    """Pollaczek and Khinchine: a query waits ``u D / (2 (1 - u))`` on average, ``D`` the time of a run."""
    found = served(Effort(rounds=60_000, least_seconds=0, most_seconds=1e9), 1000 * utilization)
    mean_ms = sum(found.latencies_ns) / len(found.latencies_ns) / MS
    assert mean_ms == pytest.approx(1 + utilization / (2 * (1 - utilization)), rel=0.1)
    assert found.busy_ns / found.wall_ns == pytest.approx(utilization, rel=0.02)


def test_a_stall_counts_for_every_query_that_arrives_during_it(served: Serve) -> None:
    effort, stalls = Effort(rounds=1000, least_seconds=0, most_seconds=1e9), {500: 100 * MS}
    closed, opened = (served(effort, rate, stalls=stalls) for rate in (None, 200.0))
    assert sum(ns > 10 * MS for ns in closed.latencies_ns) == 1
    assert 10 <= sum(ns > 10 * MS for ns in opened.latencies_ns) <= 30
    assert max(opened.latencies_ns) >= 100 * MS


def test_queries_that_a_stall_at_the_end_holds_up_are_not_dropped(served: Serve) -> None:
    effort = Effort(rounds=10**9, most_seconds=1.0)
    found = served(effort, 500.0, stalls={250: 800 * MS})
    assert len(found.latencies_ns) == pytest.approx(500, rel=0.2)
    assert sum(ns > 100 * MS for ns in found.latencies_ns) > 150


def test_a_model_that_does_not_keep_up_is_busy_all_the_time_and_comes_to_an_end(served: Serve) -> None:
    found = served(Effort(rounds=10**9, most_seconds=1.0), 1000.0, service_ns=20 * MS)
    assert found.busy_ns / found.wall_ns > 0.99
    assert len(found.latencies_ns) == pytest.approx(150, abs=2)
    assert found.latencies_ns[-1] > 10 * found.latencies_ns[1]
