"""What a worker process is asked to profile and what it answers: plain data that travels as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from onnxopt.measurement.job import Subject
from onnxopt.run.target import Target

__all__ = ["Kernel", "Trace", "TraceJob"]


@dataclass(frozen=True)
class TraceJob:
    """A model to profile in one process.

    Attributes:
        subject: The model and where it runs.
        feeds: Path of the ``.npz`` with the samples; array ``"{i}_{j}"`` is input ``j`` of sample ``i``.
        inputs: Per sample the input names, in the order of ``j``.
        runs: Runs that count, at most.
        folder: Where ONNX Runtime leaves its files; whoever asks removes it.
        parent: Process that wants the answer: the worker ends when it is gone.
    """

    subject: Subject
    feeds: str
    inputs: tuple[tuple[str, ...], ...]
    runs: int
    folder: str
    parent: int

    def to_json(self) -> str:
        """The job as a JSON document."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TraceJob:
        """The job that ``to_json`` wrote."""
        raw = cast(dict[str, Any], json.loads(text))
        return cls(
            subject=Subject(raw["subject"]["path"], Target(**raw["subject"]["target"])),
            feeds=raw["feeds"],
            inputs=tuple(tuple(names) for names in raw["inputs"]),
            runs=raw["runs"],
            folder=raw["folder"],
            parent=raw["parent"],
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel of the main graph as ONNX Runtime ran it.

    Attributes:
        name: Name of its node in the optimized graph.
        op: Operator of that node.
        provider: Full name of the execution provider.
        time_us: Median over the runs; ONNX Runtime counts whole microseconds.
    """

    name: str
    op: str
    provider: str
    time_us: float


@dataclass(frozen=True)
class Trace:
    """What one process saw.

    Attributes:
        kernels: In the order of execution; what runs inside the body of an If, Loop or Scan is in that node's time.
        runs: Runs that counted.
        run_us: Median time of a whole run, the profiler at work.
        optimized: Path of the graph that was executed; ``None``: ONNX Runtime cannot write it.
    """

    kernels: tuple[Kernel, ...]
    runs: int
    run_us: float
    optimized: str | None

    def to_document(self) -> dict[str, Any]:
        """The trace as the JSON object that ``from_document`` reads."""
        return asdict(self)

    @classmethod
    def from_document(cls, raw: Mapping[str, Any]) -> Trace:
        """The trace that ``to_document`` wrote."""
        return cls(tuple(Kernel(**k) for k in raw["kernels"]), raw["runs"], raw["run_us"], raw["optimized"])
