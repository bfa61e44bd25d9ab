"""Queries from several threads, and queries that arrive on their own schedule.

In an open loop a query counts from its scheduled arrival, whether or not a thread was free then: a client that waits
for the last answer before it asks again would hide every stall from the figures (coordinated omission). Arrivals are a
Poisson process, as in the Server scenario of MLPerf Inference (Reddi et al. 2020).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnxopt.measurement.binding import Run
from onnxopt.measurement.job import Effort, Load

__all__ = ["Served", "serve"]

NAP_NS = 300_000
"""``time.sleep`` ends up to this late: the rest of a wait is spent looking at the clock."""
DRAIN = 3.0
"""A queue that has grown is served until this many times the longest time of the effort; what is left then is lost."""


@dataclass
class Served:
    """What the threads saw; mutable because they add to it, each under the lock.

    Attributes:
        latencies_ns: Of each query in the order of arrival.
        busy_ns: Time in which threads did not wait for an arrival, summed over threads.
        wall_ns: From the first start to the last end.
    """

    latencies_ns: list[int] = field(default_factory=list[int])
    busy_ns: int = 0
    wall_ns: int = 0


class Queue:
    """Hands out queries in order until the effort is spent; mutable because every thread takes from it."""

    def __init__(self, load: Load, effort: Effort, seed: int) -> None:
        self._load, self._effort = load, effort
        self._gaps = random.Random(seed)
        self._lock = threading.Lock()
        self._taken = 0
        self._next_ns = self._begin_ns = time.perf_counter_ns()
        self.failure: BaseException | None = None

    def take(self) -> tuple[int, int] | None:
        """Number and scheduled arrival (now in a closed loop) of the next query; ``None``: that was all."""
        with self._lock:
            now = time.perf_counter_ns()
            arrival = now if self._load.rate is None else self._next_ns
            # By arrival, not by now: the queries that a stall holds up near the end must count too.
            is_spent = self._effort.is_spent(self._taken, (arrival - self._begin_ns) / 1e9)
            is_late = now - self._begin_ns > DRAIN * self._effort.most_seconds * 1e9 and self._load.rate is not None
            if self.failure is not None or is_spent or (is_late and self._taken >= self._effort.least_rounds):
                return None
            if self._load.rate is not None:
                self._next_ns += int(self._gaps.expovariate(self._load.rate) * 1e9)
            self._taken += 1
            return self._taken - 1, arrival


def serve(streams: Sequence[Sequence[Run]], load: Load, effort: Effort, seed: int, check: Callable[[], None]) -> Served:
    """The latencies of queries under ``load``.

    Args:
        streams: For each thread its own runs, one a sample.
        load: Threads and arrivals.
        effort: When no further query is handed out.
        seed: Seeds the arrivals.
        check: Called now and then; what it raises ends the measurement.
    """
    queue, served, lock = Queue(load, effort, seed), Served(), threading.Lock()
    latencies: dict[int, int] = {}

    def work(runs: Sequence[Run]) -> None:
        try:
            free = time.perf_counter_ns()
            while (query := queue.take()) is not None:
                number, arrival = query
                waited = _wait_until(arrival)
                start = time.perf_counter_ns()
                runs[number % len(runs)]()
                end = time.perf_counter_ns()
                with lock:
                    latencies[number] = end - (start if load.rate is None else arrival)
                    served.busy_ns += end - free - waited
                free = end
        except BaseException as error:  # the thread that started this one raises it
            queue.failure = error

    begin = time.perf_counter_ns()
    threads = [threading.Thread(target=work, args=(runs,), daemon=True) for runs in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)
            check()
    if queue.failure is not None:
        raise queue.failure
    served.wall_ns = time.perf_counter_ns() - begin
    served.latencies_ns = [latencies[number] for number in sorted(latencies)]
    return served


def _wait_until(moment_ns: int) -> int:
    """Returns once the clock reads ``moment_ns``; the time spent waiting for it."""
    begin = now = time.perf_counter_ns()
    while now < moment_ns:
        # Not a bare loop: that would keep the interpreter from the threads whose runs end meanwhile.
        time.sleep(max(0, moment_ns - now - NAP_NS) / 1e9)
        now = time.perf_counter_ns()
    return now - begin
