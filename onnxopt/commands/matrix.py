"""Every model in every configuration: provider x batch x threads. What fails is reported, the rest is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.core.io import load
from onnxopt.core.progress import Progress, share
from onnxopt.core.query import Model, TensorSpec, input_specs
from onnxopt.data.batch import batch_size, batches, bounded
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, OnnxoptError, UsageError, nearest
from onnxopt.measurement.anchor import Anchor, measure_anchor, measure_noise
from onnxopt.measurement.job import Load
from onnxopt.measurement.measure import PROCESSES, Measurement, measure
from onnxopt.measurement.paired import MOST_PROCESSES, LatencyComparison, compare_latency
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target, provider

__all__ = ["Configuration", "Entry", "Matrix", "Pair", "Row", "calls", "measured"]

CALLS = 16
"""Calls that the models are measured on, in turn."""
COMPARISON_STEPS = MOST_PROCESSES + 2
ANCHOR_STEPS = 5
NOISE_STEPS = 3
LEAST_QUERIES = 8
"""Queries of one process below which a rate tells nothing."""


@dataclass(frozen=True)
class Configuration:
    """Where a model runs, and on how many samples at once.

    Attributes:
        target: Provider, threads, options.
        batch: Samples of one call; ``None``: as the data are.
    """

    target: Target
    batch: int | None

    def __str__(self) -> str:
        batch = () if self.batch is None else (f"batch {self.batch}",)
        threads = "1 thread" if self.target.threads == 1 else f"{self.target.threads} threads"
        return ", ".join((provider(self.target.provider).short, *batch, threads))


@dataclass(frozen=True)
class Matrix:
    """What is measured of every model.

    Attributes:
        configurations: In the order of the rows.
        load: How queries reach the models.
        seconds: Longest time of timed runs in each process.
        runs: Timed runs of each row that are enough.
        seed: Seeds all that is random.
    """

    configurations: tuple[Configuration, ...]
    load: Load
    seconds: float
    runs: int
    seed: int

    def __post_init__(self) -> None:
        queries = None if self.load.rate is None else self.load.rate * self.seconds
        if queries is not None and queries < LEAST_QUERIES:
            raise UsageError(
                f"{self.load.rate:g} queries a second for {self.seconds:g} s are {queries:.2g} queries a process",
                where="--rate",
                fix=f"give --seconds {LEAST_QUERIES * self.seconds / queries:.0f}, or a higher rate",
            )

    @classmethod
    def over(
        cls,
        target: Target,
        providers: Sequence[str],
        batches: Sequence[int],
        threads: Sequence[int],
        *,
        load: Load,
        seconds: float,
        runs: int,
        seed: int,
    ) -> Matrix:
        """All combinations, each once; what is not listed is as ``target`` has it."""
        found = tuple(
            Configuration(replace(target, provider=name, threads=count), batch)
            for name in dict.fromkeys(provider(p).short for p in providers or (target.provider,))
            for batch in dict.fromkeys(batches or (None,))
            for count in dict.fromkeys(threads or (target.threads,))
        )
        return cls(found, load, seconds, runs, seed)


@dataclass(frozen=True)
class Entry:
    """A model to measure: what reports call it, its file, what it is; with ``further``: as many separate sessions."""

    title: str
    path: Path
    model: Model
    further: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All model files, in the order in which they run."""
        return (self.path, *self.further)

    @classmethod
    def of(cls, paths: Sequence[Path]) -> tuple[Entry, ...]:
        """The models, by file name where that tells them apart, else by path as given, else numbered.

        Raises:
            ModelError: A file cannot be used.
        """
        titles = [f"{i}: {path.name}" for i, path in enumerate(paths)]
        for plain in ([path.name for path in paths], [str(path) for path in paths]):
            if len(set(plain)) == len(paths):
                titles = plain
                break
        return tuple(cls(title, path, load(path)) for title, path in zip(titles, paths, strict=True))

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the model."""
        return input_specs(self.model)


@dataclass(frozen=True)
class Row:
    """One model in one configuration: its figures, or why there are none.

    Attributes:
        entry: The model.
        configuration: Where and how it ran.
        outcome: Its figures, or why there are none.
        anchor: The noise floor, of the first model; and what a later run can be held to, where one model is measured
            alone in one configuration.
    """

    entry: Entry
    configuration: Configuration
    outcome: Measurement | OnnxoptError
    anchor: Anchor | None = None


@dataclass(frozen=True)
class Pair:
    """One model against the first in one configuration, or why they were not compared."""

    entry: Entry
    reference: Entry
    configuration: Configuration
    outcome: LatencyComparison | OnnxoptError


def measured(entries: Sequence[Entry], matrix: Matrix, data: Dataset, progress: Progress) -> Iterator[Row | Pair]:
    """The rows of one configuration after the other, each followed by the comparisons with the first model."""
    most = CALLS * max((c.batch or 1 for c in matrix.configurations), default=1)
    samples = bounded((sample.feeds for sample in data), most)
    further = entries[1:]
    noise_steps = NOISE_STEPS if further and not entries[0].further else 0
    each = len(entries) * PROCESSES + noise_steps + len(further) * COMPARISON_STEPS
    if len(entries) == len(matrix.configurations) == 1 and matrix.load.is_single_stream:
        steps = PROCESSES + ANCHOR_STEPS
        with progress.task("all rows", steps) as advance, share(progress, advance, steps) as part:
            row = _row(entries[0], matrix.configurations[0], matrix, samples, part, with_probe=True)
        yield row
        return
    with progress.task("all rows and comparisons", len(matrix.configurations) * each) as advance:
        for configuration in matrix.configurations:
            rows: list[Row] = []
            for entry in entries:
                steps = PROCESSES + (noise_steps if entry is entries[0] else 0)
                with share(progress, advance, steps) as part:
                    rows.append(_row(entry, configuration, matrix, samples, part, with_noise=steps > PROCESSES))
                yield rows[-1]
            for row in rows[1:]:
                with share(progress, advance, COMPARISON_STEPS) as part:
                    found = _comparison(rows[0], row, matrix, samples, part)
                yield Pair(row.entry, rows[0].entry, configuration, found)


def calls(entry: Entry, configuration: Configuration, data: Dataset) -> list[Feeds]:
    """What the model is run on in turn.

    Raises:
        DataError: It does not take that batch, or its inputs have other names than the data.
    """
    return _feeds(entry, configuration, bounded((s.feeds for s in data), CALLS * (configuration.batch or 1)))


def _measurement(
    entry: Entry, configuration: Configuration, matrix: Matrix, samples: Sequence[Feeds], progress: Progress
) -> Measurement | OnnxoptError:
    try:
        feeds = _feeds(entry, configuration, samples)
        return measure(
            entry.files,
            feeds,
            configuration.target,
            batch_size=sum(batch_size(f, entry.specs) for f in feeds) / len(feeds),
            load=matrix.load,
            runs=matrix.runs,
            seconds=matrix.seconds,
            seed=matrix.seed,
            progress=progress,
        )
    except OnnxoptError as error:
        return error


def _row(
    entry: Entry,
    configuration: Configuration,
    matrix: Matrix,
    samples: Sequence[Feeds],
    progress: Progress,
    *,
    with_noise: bool = False,
    with_probe: bool = False,
) -> Row:
    """The figures of a model, with its noise floor or its anchor to the probe."""
    found = _measurement(entry, configuration, matrix, samples, progress)
    if isinstance(found, OnnxoptError) or not (with_noise or with_probe):
        return Row(entry, configuration, found)
    way, steps = (measure_anchor, ANCHOR_STEPS) if with_probe else (measure_noise, NOISE_STEPS)
    try:
        feeds = _feeds(entry, configuration, samples)
        anchor = way(entry.path, feeds, configuration.target, processes=steps, seed=matrix.seed, progress=progress)
    except OnnxoptError as error:
        return Row(entry, configuration, error)
    return Row(entry, configuration, found, anchor)


def _comparison(
    reference: Row, row: Row, matrix: Matrix, samples: Sequence[Feeds], progress: Progress
) -> LatencyComparison | OnnxoptError:
    """One call after the other, whatever the load of the matrix is."""
    for side in (reference, row):
        if isinstance(side.outcome, OnnxoptError):
            return DataError(
                f"not compared: {side.entry.title} could not be measured",
                where=side.outcome.where,
                fix=side.outcome.fix,
            )
    try:
        feeds = _feeds(reference.entry, row.configuration, samples)
        return compare_latency(
            reference.entry.files,
            row.entry.path,
            feeds,
            row.configuration.target,
            seed=matrix.seed,
            progress=progress,
        )
    except OnnxoptError as error:
        return error


def _feeds(entry: Entry, configuration: Configuration, samples: Sequence[Feeds]) -> list[Feeds]:
    missing = [spec.name for spec in entry.specs if spec.name not in samples[0]]
    if missing:
        raise DataError(
            f"no array for input {', '.join(map(repr, missing))}: the data are those of the first model",
            where=entry.title,
            fix=f"measure it by itself, or name its inputs alike ({nearest(missing[0], samples[0])})",
        )
    if configuration.batch is None:
        return list(samples[:CALLS])
    return batches(samples, entry.specs, configuration.batch, most=CALLS)
