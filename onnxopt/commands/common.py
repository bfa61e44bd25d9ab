"""What several commands share: opening the model and the data, and the tables of a comparison."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from onnxopt.core.atomic import check_writable
from onnxopt.core.io import data_files, load, own_data_files
from onnxopt.core.leftovers import leftovers
from onnxopt.core.query import Model, TensorSpec, input_specs
from onnxopt.core.report import JSON, Note, Table
from onnxopt.data.dataset import Dataset
from onnxopt.data.sources import open_dataset
from onnxopt.errors import UsageError
from onnxopt.evaluate.made_up import made_up
from onnxopt.evaluate.tally import Comparison
from onnxopt.measurement.paired import LatencyComparison
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = [
    "Source",
    "accuracy_table",
    "as_json",
    "check_output",
    "data_notes",
    "drift_table",
    "first_feeds",
    "latency_table",
    "open_data",
    "open_fitting",
    "open_given",
    "open_model",
    "size_table",
    "workspace",
]

FEEDS = 16
"""Samples that models are measured on, and that quantized ones are verified on."""


@dataclass(frozen=True)
class Source:
    """What the user calls their data.

    Attributes:
        path: ``--data``; ``None``: made up from the input shapes.
        labels: Key of the labels in npz files.
        preprocess: How images become arrays.
        samples: Use at most this many.
        seed: Seed of the choice.
    """

    path: str | None = None
    labels: str = "labels"
    preprocess: Path | None = None
    samples: int | None = None
    seed: int = 0


def open_model(path: Path, target: Target) -> Model:
    """The model at ``path``, known to load on ``target``."""
    model = load(path)
    open_session(path, target)
    return model


def open_data(source: Source, path: Path, model: Model, target: Target) -> Dataset:
    """The user's data checked against the model, or made-up inputs that the model runs on."""
    return open_fitting(source, path, input_specs(model), target)


def open_fitting(source: Source, path: Path, specs: Sequence[TensorSpec], target: Target) -> Dataset:
    """The user's data checked against these inputs, or made-up ones that the model at ``path`` runs on."""
    given = open_given(source, specs)
    return made_up(path, specs, target, samples=source.samples or 8, seed=source.seed) if given is None else given


def open_given(source: Source, specs: Sequence[TensorSpec]) -> Dataset | None:
    """The user's data checked against these inputs; ``None``: there are none."""
    if source.path is None:
        return None
    return open_dataset(
        source.path,
        specs,
        labels=source.labels,
        preprocess=source.preprocess,
        samples=source.samples,
        seed=source.seed,
    )


def first_feeds(data: Dataset) -> list[Feeds]:
    """The first few inputs, for what needs no more."""
    return [sample.feeds for sample in islice(data, FEEDS)]


def check_output(output: Path, model: Path, *others: str | Path | None, option: str = "-o") -> Path:
    """``output`` when a result can be written there without touching an input.

    Args:
        output: Where the result is to go.
        model: The input model.
        others: More files that are read: data, settings.
        option: The option that names the output, for messages.

    Raises:
        UsageError: It is an input, or writing it could remove a data file of the input.
        OutputError: It cannot be written.
    """
    final = check_writable(output, option=option)
    inputs = {file.resolve() for file in data_files(model)}
    if final in inputs | {Path(other).resolve() for other in others if other is not None}:
        raise UsageError(
            "the output is an input; inputs are never changed",
            where=str(output),
            fix=f"give another name with {option}",
        )
    if inputs & (own_data_files(final) | leftovers(final)):
        raise UsageError(
            "the output shares its data file with the input, and replacing it could remove that",
            where=str(output),
            fix=f"give another name with {option}",
        )
    return final


@contextmanager
def workspace() -> Generator[Path]:
    """A folder for intermediate files that is removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="onnxopt-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_json(value: Any) -> JSON:
    """A frozen dataclass as plain JSON data (tuples become lists)."""
    return cast(JSON, json.loads(json.dumps(asdict(value))))


def accuracy_table(comparison: Comparison, title: str = "Accuracy") -> Table:
    """Metric, both scores, drop, its bound, and what to expect on other samples where that is known."""
    row = (
        comparison.metric,
        comparison.samples,
        comparison.reference_score,
        comparison.candidate_score,
        comparison.drop,
        comparison.drop_bound,
        *([] if comparison.expected_drop is None else [comparison.expected_drop, comparison.expected_error]),
    )
    known = [] if comparison.expected_drop is None else ["expected drop", "give or take"]
    return Table(title, ("metric", "samples", "reference", "candidate", "drop", "95 % bound", *known), (row,))


def drift_table(comparison: Comparison) -> Table:
    """Distance at each output."""
    rows = tuple((d.name, d.sqnr_db, d.cosine, d.max_abs, d.share_equal) for d in comparison.drift)
    return Table("Drift by output", ("output", "SQNR dB", "cosine", "max abs", "share equal"), rows)


def latency_table(comparisons: Mapping[str, LatencyComparison], title: str) -> Table:
    """One row a candidate: both medians, the speed-up, the ratio with its interval, the decision."""
    rows = tuple(
        (
            name,
            f"{c.reference.p50_ms:.4g} -> {c.candidate.p50_ms:.4g}",
            f"{1 / c.ratio:.2f}x",
            f"{c.ratio:.3f} ({c.low:.3f} .. {c.high:.3f})",
            c.decision if c.holds is None else "within the limit" if c.holds else "over the limit",
            c.processes,
        )
        for name, c in comparisons.items()
    )
    return Table(title, ("model", "p50 ms", "speed-up", "latency ratio (90 %)", "decision", "processes"), rows)


def size_table(models: Mapping[str, Path]) -> Table:
    """Bytes on disk, external data included, and the share of the first."""
    sizes = {name: sum(f.stat().st_size for f in data_files(path)) for name, path in models.items()}
    first = next(iter(sizes.values()))
    return Table("Size", ("model", "bytes", "share"), tuple((n, b, b / first) for n, b in sizes.items()))


def data_notes(data: Dataset) -> tuple[Note, ...]:
    """What was decided about the data on the way, and that made-up ones judge no accuracy."""
    if data.synthetic:
        said = "; ".join(data.notes)
        return (Note("data", "made up", f"{said}; results on made-up inputs are no accuracy on real ones"),)
    return tuple(Note("data", "note", text) for text in data.notes)
