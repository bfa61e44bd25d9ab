"""What a model costs before it has run twice: creation of the session, first run, memory; each in a fresh process."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.measurement.job import Effort, Subject
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["COLD", "Start", "measure_starts"]

COLD = Effort(rounds=1, least_seconds=0, warm_up=False)
STARTED_SAMPLES = 8


@dataclass(frozen=True)
class Start:
    """One process that opened a model and ran each sample once or twice.

    Attributes:
        load_ms: Time to create the session.
        first_run_ms: Time of the first run.
        peak_rss_mb: Peak resident memory (MiB), the interpreter and the samples included; ``None``: unknown.
    """

    load_ms: float
    first_run_ms: float
    peak_rss_mb: float | None

    @property
    def cold_start_ms(self) -> float:
        """Time from the file to the first answer."""
        return self.load_ms + self.first_run_ms


def measure_starts(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    processes: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Start, ...]:
    """The starts of a model in that many processes; arguments and errors as for ``measure``.

    The file is in the page cache from the first on: what is measured is not the disk.
    """
    subject = Subject(str(path.resolve()), target)
    starts: list[Start] = []
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        (progress or SilentProgress()).task(f"starting {path.name}", processes) as advance,
    ):
        laboratory = Laboratory(Path(folder), spread(feeds, STARTED_SAMPLES))
        for i in range(processes):
            answer = laboratory.run([subject], COLD, seed + i)
            timing, peak = answer.timings[0], answer.peak_rss_bytes
            starts.append(
                Start(timing.load_ns / 1e6, timing.first_run_ns / 1e6, None if peak is None else peak / 2**20)
            )
            advance(1)
    return tuple(starts)
