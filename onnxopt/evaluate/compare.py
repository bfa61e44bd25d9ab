"""Compares a candidate with its reference on the user's data: metric, drop, bound of the drop, drift of each output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.errors import DataError, ModelError, UsageError, nearest
from onnxopt.evaluate.drift import DriftMeter
from onnxopt.evaluate.flips import FlipMeter
from onnxopt.evaluate.interface import interface_difference
from onnxopt.evaluate.metrics import Metric, RowMetric, WholeMetric, choose_metric
from onnxopt.evaluate.outputs import as_array, size_bytes
from onnxopt.evaluate.rows import Array
from onnxopt.evaluate.tally import Comparison, Tally, conclude
from onnxopt.run.session import Feeds, Session, open_session
from onnxopt.run.target import Target

__all__ = ["Comparison", "Runner", "Scorer", "compare_models"]

CACHE_BYTES = 256 << 20
EXAMPLES = 8
"""Samples that are looked at to choose a metric."""


class Runner(Protocol):
    """What can be a reference: a session, or a model that its framework runs."""

    @property
    def path(self) -> Path:
        """The file, or what the user called the model, for messages."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        ...

    def run(self, feeds: Feeds) -> Mapping[str, np.ndarray[Any, Any]]:
        """All outputs for one set of feeds."""
        ...


def compare_models(
    reference: Path | Runner,
    candidate: Path,
    data: Dataset,
    target: Target,
    *,
    metric: str | None = None,
    output: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """The comparison of two model files in one pass over ``data``; arguments and errors as for ``Scorer``."""
    scorer = Scorer(reference, data, target, metric=metric, output=output, seed=seed, progress=progress, cache_bytes=0)
    return scorer.compare(candidate)


class Scorer:
    """Compares many candidates with one reference; mutable because it keeps what the reference did.

    The reference runs once: its rows are kept, and its outputs as long as they fit into ``cache_bytes`` (the rest is
    run again where a candidate needs it).

    Attributes:
        reference: What candidates are compared with.
        metric: The metric in use.
        output: Name of the output it judges.
        is_chosen: Whether the user named that output, so that the others are theirs to judge.

    Args:
        reference: Model file to compare with, or what answers in its place.
        data: Samples to judge by.
        target: Where the models run.
        metric: See ``choose_metric``; default: what fits.
        output: Name of the output to judge; default: the first.
        seed: Seed of the bootstrap.
        progress: Where to tell how far a pass is.
        cache_bytes: Memory for the outputs of the reference.

    Raises:
        ModelError: The reference cannot be loaded.
        UsageError: Unknown metric or output, or a metric that does not apply.
        DataError: No samples, or samples or labels that do not fit.
    """

    def __init__(
        self,
        reference: Path | Runner,
        data: Dataset,
        target: Target,
        *,
        metric: str | None = None,
        output: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._reference: Runner = open_session(reference, target) if isinstance(reference, Path) else reference
        self.reference = self._reference.path
        self._data, self._target, self._seed = data, target, seed
        self._progress: Progress = SilentProgress() if progress is None else progress
        self._room = cache_bytes
        self._cache: dict[int, Mapping[str, object]] = {}
        self._tally: Tally | None = None
        self.output = _primary(self._reference, output)
        self.is_chosen = output is not None
        self.metric: Metric = self._choose(metric)

    def compare(self, candidate: Path, *, drift: bool = True) -> Comparison:
        """The comparison with one candidate; without ``drift`` a pass with labels does not run the reference again.

        Raises:
            ModelError: The candidate cannot be loaded, or its inputs or outputs are not those of the reference.
            DataError: It does not run on the data, or returns something that cannot be compared.
        """
        session = open_session(candidate, self._target)
        first = self._reference
        difference = interface_difference(first, session) if isinstance(first, Session) else None
        if difference is not None:
            raise ModelError(
                f"the candidate cannot stand in for the reference: {difference}",
                where=f"{candidate.name} against {self._reference.path.name}",
                fix="compare two versions of one model",
            )
        is_first = self._tally is None
        kept, judged = self._tally or Tally(self.metric, self.output), Tally(self.metric, self.output)
        meter, flips = DriftMeter(), FlipMeter()
        labels: list[Array] = []
        with self._progress.task(f"comparing {candidate.name}", len(self._data)) as advance:
            for index, sample in enumerate(self._data):
                truth = None
                if self._data.has_labels and not self.metric.against_reference:
                    truth = _labels(sample, self._data)
                    labels.extend([truth] if isinstance(self.metric, WholeMetric) else [])
                found: Mapping[str, object] = session.run(sample.feeds)
                if is_first or drift or self.metric.against_reference:
                    expected = self._expected(index, sample)
                    if self.metric.against_reference:
                        truth = as_array(expected[self.output], self.output)
                    if is_first:
                        kept.take(expected, truth)
                    if drift:
                        meter.update(expected, found)
                        self._add_scores(flips, expected, found, truth)
                judged.take(found, truth)
                self._check_count(kept, judged, candidate.name)
                advance(1)
        if is_first:
            kept.score = kept.final_score(labels)
            if not math.isfinite(kept.score):
                raise DataError(
                    f"{self.metric.name} of the reference model is {kept.score} on these data",
                    where=f"{self._data.source}, output {self.output!r}",
                    fix="give labels in which what the metric counts occurs, or choose another --metric",
                )
            kept.outputs.clear()
            self._tally = kept
        judged.score = judged.final_score(labels)
        return conclude(kept, judged, meter.result(), flips, seed=self._seed)

    def _add_scores(
        self, flips: FlipMeter, expected: Mapping[str, object], found: Mapping[str, object], truth: Array | None
    ) -> None:
        """Adds the class scores of one call, where the metric decides between classes."""
        if not isinstance(self.metric, RowMetric) or self.metric.class_scores is None:
            return
        of = self.metric.class_scores
        first, second = (as_array(outputs[self.output], self.output) for outputs in (expected, found))
        flips.update(of(first), of(second), None if self.metric.against_reference else truth)

    def _choose(self, name: str | None) -> Metric:
        if not len(self._data):
            raise DataError("there are no samples to judge by", where=self._data.source, fix="give data with samples")
        samples = [self._data[i] for i in range(min(EXAMPLES, len(self._data)))]
        arrays = [as_array(self._expected(i, sample)[self.output], self.output) for i, sample in enumerate(samples)]
        return choose_metric(
            name,
            arrays[0],
            has_labels=self._data.has_labels,
            labels=_labels(samples[0], self._data) if self._data.has_labels else None,
            more_outputs=arrays[1:],
        )

    def _expected(self, index: int, sample: Sample) -> Mapping[str, object]:
        """The reference's outputs on a sample, from memory or run."""
        if index in self._cache:
            return self._cache[index]
        outputs: Mapping[str, object] = self._reference.run(sample.feeds)
        size = sum(size_bytes(value) for value in outputs.values())
        if size <= self._room:
            self._room -= size
            self._cache[index] = outputs
        return outputs

    def _check_count(self, kept: Tally, judged: Tally, name: str) -> None:
        index = len(judged.counts) - 1
        if judged.counts[index] != kept.counts[index]:
            raise DataError(
                f"the candidate returns {judged.counts[index]} items where the reference returns {kept.counts[index]}",
                where=f"{name}, output {self.output!r}, sample {index}",
                fix="compare models with the same batch axis, or choose another --output-name",
            )


def _primary(session: Runner, output: str | None) -> str:
    if output is None:
        return session.outputs[0]
    if output not in session.outputs:
        raise UsageError(
            f"{session.path.name} has no output {output!r}", where="--output-name", fix=nearest(output, session.outputs)
        )
    return output


def _labels(sample: Sample, data: Dataset) -> Array:
    if sample.labels is None:
        raise DataError(
            "some samples have labels and this one has none", where=data.source, fix="give every sample its labels"
        )
    return np.atleast_1d(sample.labels)
