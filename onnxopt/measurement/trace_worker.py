"""The process that profiles a model: ``python -m onnxopt.measurement.trace_worker JOB.json ANSWER.json``.

ONNX Runtime's profiler writes one event for each kernel when it ends, one for each executed graph, the bodies of If,
Loop and Scan included, and one for each run. The events are read with that nesting, so that a body is not counted
beside its node.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxopt.errors import ModelError, ProviderError
from onnxopt.measurement.binding import bound_run
from onnxopt.measurement.trace import Kernel, Trace, TraceJob
from onnxopt.measurement.worker import answer, end_when_orphaned, samples_of
from onnxopt.run.session import Recording, Session, open_session

__all__ = ["main", "main_graph_runs", "perform"]

WARM_UP_RUNS = 3
MOST_SECONDS = 6.0
LEAST_RUNS = 3
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class Event:
    """One kernel of one run; times in microseconds."""

    name: str
    op: str
    provider: str
    start: int
    time: int


def main(arguments: Sequence[str]) -> int:
    """Performs the job in the first file and writes the answer, or the error, to the second."""
    source, sink = (Path(a) for a in arguments)
    answer(sink, lambda: perform(TraceJob.from_json(source.read_text(encoding="utf-8"))).to_document())
    return 0


def perform(job: TraceJob) -> Trace:
    """The kernels of the model of ``job`` with their median times.

    Raises:
        ModelError: The model cannot be loaded, or it executes more kernels in one run than the profiler counts.
        ProviderError: Its provider cannot be used.
        DataError: It does not run on a sample.
    """
    samples = samples_of(job.feeds, job.inputs)
    session, optimized = _open(job)
    feeds = [{name: sample[name] for name in session.inputs if name in sample} for sample in samples]
    for values in feeds:
        session.run(values)
        end_when_orphaned(job.parent)
    bound = [bound_run(session, job.subject.target, values) for values in feeds]
    for i in range(WARM_UP_RUNS):
        bound[i % len(bound)]()
    discarded, begin = len(feeds) + WARM_UP_RUNS, time.perf_counter()
    for i in range(job.runs):
        bound[i % len(bound)]()
        end_when_orphaned(job.parent)
        if i + 1 >= LEAST_RUNS and time.perf_counter() - begin > MOST_SECONDS:
            break
    events = json.loads(Path(session.raw.end_profiling()).read_text(encoding="utf-8"))
    runs = [run for run in main_graph_runs(events)[discarded:] if run[1]]
    if not runs:
        raise ModelError(
            "ONNX Runtime's profiler has no complete run of the model",
            where=session.path.name,
            fix="profile a smaller input: the profiler counts a million kernels, the bodies of loops included",
        )
    kernels = tuple(
        Kernel(first.name, first.op, first.provider, statistics.median(run[k].time for _, run in runs))
        for k, first in enumerate(runs[0][1])
    )
    return Trace(kernels, len(runs), statistics.median(whole for whole, _ in runs), optimized)


def main_graph_runs(events: Iterable[Mapping[str, Any]]) -> list[tuple[int, list[Event]]]:
    """For each run its time and the events of the main graph, in the order of execution.

    Runs that differ from the first in their kernels (the profiler was full) are left out.
    """
    runs: list[tuple[int, list[Event]]] = []
    pending: list[Event] = []
    graph: list[Event] = []
    for event in events:
        name, start = str(event.get("name", "")), int(event.get("ts", 0))
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            details = event["args"]
            pending.append(
                Event(
                    name.removesuffix(SUFFIX),
                    str(details["op_name"]),
                    str(details.get("provider", "")),
                    start,
                    int(event["dur"]),
                )
            )
        elif name == "SequentialExecutor::Execute":  # a graph ends: what began since it began is its own
            count = 0
            while count < len(pending) and pending[-1 - count].start >= start:
                count += 1
            graph = pending[len(pending) - count :]
            del pending[len(pending) - count :]
        elif name == "model_run":
            runs.append((int(event["dur"]), graph))
            pending, graph = [], []
    expected = [e.name for e in runs[0][1]] if runs else []
    return [run for run in runs if [e.name for e in run[1]] == expected]


def _open(job: TraceJob) -> tuple[Session, str | None]:
    """A recording session and the path of its optimized graph, which compiled providers cannot write."""
    path, folder = Path(job.subject.path), Path(job.folder)
    optimized = folder / "optimized.onnx"
    try:
        session = open_session(path, job.subject.target, recording=Recording(folder / "profile", optimized))
        return session, str(optimized)
    except (ModelError, ProviderError):  # for another reason it comes again
        return open_session(path, job.subject.target, recording=Recording(folder / "profile")), None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
