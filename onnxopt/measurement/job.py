"""What a worker process is asked to time and what it answers: plain data that travels as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from onnxopt.run.target import Target

__all__ = ["Answer", "Effort", "Job", "Load", "Subject", "Timing", "median_ms", "peak_mb", "times_ms"]


@dataclass(frozen=True)
class Effort:
    """How long one process goes on. A round is one timed run of each model.

    It stops once ``rounds`` and ``least_seconds`` are both reached, or after ``most_seconds`` but ``least_rounds``.

    Attributes:
        rounds: Rounds that are enough.
        least_seconds: Time a model that is spent in any case: more rounds of a fast model cost nothing.
        most_seconds: Time a model after which fewer rounds are accepted.
        least_rounds: Rounds that are made whatever they cost.
        warm_up: Run until the time is steady first.
        host_runs: Further runs of each model that take numpy arrays and give numpy arrays, as a plain call does; at
            most half a second.
    """

    rounds: int = 40
    least_seconds: float = 0.3
    most_seconds: float = 1.0
    least_rounds: int = 8
    warm_up: bool = True
    host_runs: int = 0

    def is_spent(self, rounds: int, seconds: float) -> bool:
        """Whether ``rounds`` that took ``seconds`` a model are enough."""
        if rounds >= self.rounds and seconds >= self.least_seconds:
            return True
        return rounds >= self.least_rounds and seconds >= self.most_seconds


@dataclass(frozen=True)
class Load:
    """How queries reach a model.

    Attributes:
        concurrency: Threads that run queries on one session at the same time.
        rate: ``None``: closed loop, a thread starts its next query when the last one has ended. A number: open loop,
            that many queries a second arrive on average, with exponentially distributed gaps (a Poisson process), and
            wait for a free thread.
    """

    concurrency: int = 1
    rate: float | None = None

    @property
    def is_single_stream(self) -> bool:
        """Whether there is never more than one query, and the next follows at once."""
        return self.concurrency == 1 and self.rate is None


@dataclass(frozen=True)
class Subject:
    """A model file and where it runs, or several that are run one after the other as one call.

    Attributes:
        path: Absolute path of the model file.
        target: Provider, threads, options.
        further: Absolute paths of the files that follow, each in a session of its own.
    """

    path: str
    target: Target
    further: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, in the order in which they run."""
        return (self.path, *self.further)


@dataclass(frozen=True)
class Job:
    """Models to time in one process.

    Attributes:
        subjects: One model, or several to time in turn.
        feeds: Path of the ``.npz`` with the samples; array ``"{i}_{j}"`` is input ``j`` of sample ``i``.
        inputs: Per sample the input names, in the order of ``j``.
        effort: When to stop.
        seed: Seeds the order within rounds and the arrivals; its parity decides which model is opened first.
        parent: Process that wants the answer: the worker ends when it is gone.
        load: How queries reach the model; anything but a single stream takes just one model.
    """

    subjects: tuple[Subject, ...]
    feeds: str
    inputs: tuple[tuple[str, ...], ...]
    effort: Effort
    seed: int
    parent: int
    load: Load = Load()

    def to_json(self) -> str:
        """The job as a JSON document."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that ``to_json`` wrote."""
        raw = cast(dict[str, Any], json.loads(text))
        return cls(
            subjects=tuple(Subject(s["path"], Target(**s["target"]), tuple(s["further"])) for s in raw["subjects"]),
            feeds=raw["feeds"],
            inputs=tuple(tuple(names) for names in raw["inputs"]),
            effort=Effort(**raw["effort"]),
            seed=raw["seed"],
            parent=raw["parent"],
            load=Load(**raw["load"]),
        )


@dataclass(frozen=True)
class Timing:
    """What one process saw of one model.

    Attributes:
        load_ns: Time to create the session.
        first_run_ns: Time of the very first run.
        warm_up_runs: Runs before the first that counts (the first included).
        runs_ns: Times of the runs that count; run ``i`` took sample ``i`` modulo the number of samples. In an open
            loop each counts from the scheduled arrival of its query.
        host_ns: Times of the runs from numpy arrays to numpy arrays.
        wall_ns: From the start of the first run that counts to the end of the last.
        busy_ns: Time in which threads did not wait for a query to arrive, summed over threads.
        fallback: Nodes that run on another provider than the requested one, as ``"Op 'name' (provider)"``.
    """

    load_ns: int
    first_run_ns: int
    warm_up_runs: int
    runs_ns: tuple[int, ...]
    host_ns: tuple[int, ...] = ()
    wall_ns: int = 0
    busy_ns: int = 0
    fallback: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What one process measured.

    Attributes:
        timings: One for each subject, in the order of the job.
        peak_rss_bytes: Largest resident memory of the process, ``None`` where the system does not tell.
        device_bytes: Device memory in use by the process at the end; ``None``: not a GPU, or not told.
    """

    timings: tuple[Timing, ...]
    peak_rss_bytes: int | None
    device_bytes: int | None = None

    def to_document(self) -> dict[str, Any]:
        """The answer as the JSON object that ``from_document`` reads."""
        return asdict(self)

    @classmethod
    def from_document(cls, raw: Mapping[str, Any]) -> Answer:
        """The answer that ``to_document`` wrote."""
        return cls(
            timings=tuple(_timing(t) for t in raw["timings"]),
            peak_rss_bytes=raw["peak_rss_bytes"],
            device_bytes=raw["device_bytes"],
        )


def times_ms(answers: Iterable[Answer], k: int) -> list[float]:
    """The times of all runs of model ``k`` that count."""
    return [ns / 1e6 for answer in answers for ns in answer.timings[k].runs_ns]


def median_ms(times_ns: Iterable[int]) -> float:
    """The median in ms of times in ns."""
    return statistics.median(times_ns) / 1e6


def peak_mb(sizes_bytes: Iterable[int | None]) -> float | None:
    """The largest of the known sizes, in MiB."""
    return max((size / 2**20 for size in sizes_bytes if size is not None), default=None)


def _timing(raw: Mapping[str, Any]) -> Timing:
    fields = dict(raw)
    fields |= {name: tuple(raw[name]) for name in ("runs_ns", "host_ns", "fallback")}
    return Timing(**fields)
