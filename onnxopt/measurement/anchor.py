"""A model measured against itself and against the probe: the noise floor, and what a stored figure can be held to.

Latencies of two runs that lie days apart cannot be compared: the machine was slower or busier at one of them. Their
ratios to a probe that ran in the same processes, run by run in turn, can, as far as what slows the model down slows the
probe down alike.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.measurement.env import settle_spinning
from onnxopt.measurement.job import Effort, Subject
from onnxopt.measurement.paired import COMPARED_SAMPLES, process_ratio
from onnxopt.measurement.probe import PROBE_VERSION, probe_feeds, write_probe
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.measurement.stats import Estimate, estimate, estimate_apart, is_below
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["Anchor", "Standing", "compare_with_anchor", "measure_anchor", "measure_noise"]


BETWEEN_RUNS = 0.015
"""Added to both ends of the interval (as a log ratio) when runs that lie apart are compared: a busy core slows the
probe and the model down by not quite the same factor; the ratio of a model to itself moved by up to 2.2 % in ten runs.
"""


@dataclass(frozen=True)
class Anchor:
    """Log ratios of latencies, one a process.

    Attributes:
        to_self: Of the model to itself in a second session: zero but for noise.
        to_probe: Of the model to the probe.
        probe: Version of the probe.
        session_config: Session configuration under which both ran.
    """

    to_self: tuple[float, ...]
    to_probe: tuple[float, ...]
    probe: int
    session_config: Mapping[str, str]

    @property
    def spread(self) -> float:
        """The noise floor: standard deviation over processes of the ratio of the model to itself."""
        return statistics.stdev(self.to_self)

    @property
    def noise(self) -> Estimate:
        """The ratio of the model to itself with its interval."""
        return estimate(self.to_self)


@dataclass(frozen=True)
class Standing:
    """A model now against a stored anchor.

    Attributes:
        found: The latency ratio with its interval, which allows for ``BETWEEN_RUNS``.
        holds: Whether the ratio stays below the limit; ``None``: undecided.
        anchor: What was measured now.
    """

    found: Estimate
    holds: bool | None
    anchor: Anchor


def measure_anchor(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    processes: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Anchor:
    """The anchor of a model, from that many fresh processes; arguments and errors as for ``compare_latency``."""
    settled = settle_spinning(target, paired=True)
    return _extend(path, feeds, settled, seed, progress, most=processes)


def measure_noise(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    processes: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Anchor:
    """The ratio of a model to itself alone: the noise floor of a comparison in pairs, under the same conditions."""
    settled = settle_spinning(target, paired=True)
    return _extend(path, feeds, settled, seed, progress, most=processes, has_probe=False)


def compare_with_anchor(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    stored: Anchor,
    *,
    limit: float,
    min_processes: int = 5,
    max_processes: int = 15,
    seed: int = 0,
    progress: Progress | None = None,
) -> Standing:
    """Whether the latency of a model stays below ``limit`` times that of the one whose anchor was stored.

    Args:
        path: The model now.
        feeds: The samples that the stored one ran on.
        target: Where that was.
        stored: Its anchor, with the same version of the probe.
        limit: The ratio that must not be reached.
        min_processes: Processes before anything is decided.
        max_processes: Processes after which it is left undecided.
        seed: Seeds the order of the runs.
        progress: Told of each process.
    """

    def judge(now: Anchor) -> tuple[Estimate, bool | None]:
        found = estimate_apart(stored.to_probe, now.to_probe)
        found = replace(found, low=found.low * math.exp(-BETWEEN_RUNS), high=found.high * math.exp(BETWEEN_RUNS))
        return found, is_below(found, limit)

    def is_enough(now: Anchor) -> bool:
        return len(now.to_probe) >= min_processes and judge(now)[1] is not None

    same = replace(target, session_config=dict(stored.session_config))
    now = _extend(path, feeds, same, seed, progress, most=max_processes, is_enough=is_enough)
    return Standing(*judge(now), now)


def _extend(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    seed: int,
    progress: Progress | None,
    *,
    most: int,
    is_enough: Callable[[Anchor], bool] = lambda found: False,
    has_probe: bool = True,
) -> Anchor:
    """Processes with two sessions of the model and one of the probe, until there are enough."""
    samples = spread(feeds, COMPARED_SAMPLES)
    subject = Subject(str(path.resolve()), target)
    found = Anchor((), (), PROBE_VERSION, dict(target.session_config))
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-bench-") as folder,
        (progress or SilentProgress()).task(f"noise floor of {path.name}", most) as advance,
    ):
        subjects, rows = [subject, subject], samples
        if has_probe:
            subjects.append(Subject(str(write_probe(Path(folder) / "probe.onnx").resolve()), target))
            rows = tuple({**sample, **probe_feeds()} for sample in samples)
        laboratory = Laboratory(Path(folder), rows)
        while len(found.to_self) < most and not (len(found.to_self) > 1 and is_enough(found)):
            answer = laboratory.run(subjects, Effort(), seed + len(found.to_self))
            to_probe = (process_ratio(answer, samples, reference=2, candidate=0),) if has_probe else ()
            found = replace(
                found,
                to_self=(*found.to_self, process_ratio(answer, samples)),
                to_probe=(*found.to_probe, *to_probe),
            )
            advance(1)
    return found
