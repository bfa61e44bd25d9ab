"""What each member costs, as its share of all."""

from __future__ import annotations

import statistics
import time

from onnxopt.core.cost import cost
from onnxopt.core.shapes import static_shapes
from onnxopt.merging.align import Alignment
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = ["member_costs"]

TIMED = 7


def member_costs(alignment: Alignment, feeds: Feeds, target: Target) -> tuple[float, ...]:
    """Each member's share of the cost of all: multiply-accumulates, or time where those are not known."""
    counts: list[int] = []
    for member in alignment.members:
        shapes = static_shapes(member.model, {n: a.shape for n, a in member.feed(feeds).items()})
        found = cost(member.model, shapes)
        counts.append(0 if found.unknown else found.total_macs)
    if all(counts):
        return tuple(count / sum(counts) for count in counts)
    times: list[float] = []
    for member in alignment.members:
        session, own = open_session(member.path, target), member.feed(feeds)
        session.run(own)
        taken: list[float] = []
        for _ in range(TIMED):
            start = time.perf_counter()
            session.run(own)
            taken.append(time.perf_counter() - start)
        times.append(statistics.median(taken))
    return tuple(t / sum(times) for t in times)
