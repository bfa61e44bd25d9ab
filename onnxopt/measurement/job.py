"""What a worker process is asked to time and what it answers: plain data that travels as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from onnxopt.run.target import Target

__all__ = ["Answer", "Effort", "Job", "Subject", "Timing"]


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
    """

    rounds: int = 40
    least_seconds: float = 0.2
    most_seconds: float = 1.0
    least_rounds: int = 8
    warm_up: bool = True

    def is_spent(self, rounds: int, seconds: float) -> bool:
        """Whether ``rounds`` that took ``seconds`` a model are enough."""
        if rounds >= self.rounds and seconds >= self.least_seconds:
            return True
        return rounds >= self.least_rounds and seconds >= self.most_seconds


@dataclass(frozen=True)
class Subject:
    """A model file and where it runs.

    Attributes:
        path: Absolute path of the model file.
        target: Provider, threads, options.
    """

    path: str
    target: Target


@dataclass(frozen=True)
class Job:
    """One or two models to time in one process.

    Attributes:
        subjects: One model, or two to time in turn.
        feeds: Path of the ``.npz`` with the samples; array ``"{i}_{j}"`` is input ``j`` of sample ``i``.
        inputs: Per sample the input names, in the order of ``j``.
        effort: When to stop.
        seed: Seeds the order within rounds; its parity decides which model is opened first.
        parent: Process that wants the answer: the worker ends when it is gone.
    """

    subjects: tuple[Subject, ...]
    feeds: str
    inputs: tuple[tuple[str, ...], ...]
    effort: Effort
    seed: int
    parent: int

    def to_json(self) -> str:
        """The job as a JSON document."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that ``to_json`` wrote."""
        raw = cast(dict[str, Any], json.loads(text))
        return cls(
            subjects=tuple(Subject(s["path"], Target(**s["target"])) for s in raw["subjects"]),
            feeds=raw["feeds"],
            inputs=tuple(tuple(names) for names in raw["inputs"]),
            effort=Effort(**raw["effort"]),
            seed=raw["seed"],
            parent=raw["parent"],
        )


@dataclass(frozen=True)
class Timing:
    """What one process saw of one model.

    Attributes:
        load_ns: Time to create the session.
        first_run_ns: Time of the very first run.
        warm_up_runs: Runs before the first that counts (the first included).
        runs_ns: Times of the runs that count; run ``i`` took sample ``i`` modulo the number of samples.
    """

    load_ns: int
    first_run_ns: int
    warm_up_runs: int
    runs_ns: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What one process measured.

    Attributes:
        timings: One for each subject, in the order of the job.
        peak_rss_bytes: Largest resident memory of the process, ``None`` where the system does not tell.
    """

    timings: tuple[Timing, ...]
    peak_rss_bytes: int | None

    def to_document(self) -> dict[str, Any]:
        """The answer as the JSON object that ``from_document`` reads."""
        return asdict(self)

    @classmethod
    def from_document(cls, raw: Mapping[str, Any]) -> Answer:
        """The answer that ``to_document`` wrote."""
        return cls(
            timings=tuple(
                Timing(t["load_ns"], t["first_run_ns"], t["warm_up_runs"], tuple(t["runs_ns"])) for t in raw["timings"]
            ),
            peak_rss_bytes=raw["peak_rss_bytes"],
        )
