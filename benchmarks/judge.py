"""One judge for all: accuracy, drift, size and paired latency of a model file against the fp32 model it came from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.entry import Entry
from onnxopt.core.io import data_files, load
from onnxopt.core.query import input_specs
from onnxopt.data.sources import open_dataset
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.run.target import Target

TARGET = Target(threads=1)
Feeds = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Judgement:
    """What is known of one model file.

    Attributes:
        comparison: By the metric of the task.
        agreement: By agreement with fp32, which has a bound also where the task's metric has none.
        latency: At batch 1 and one thread, in interleaved pairs.
        size_share: Bytes over those of the fp32 model, external data included.
    """

    comparison: Comparison
    agreement: Comparison
    latency: LatencyComparison
    size_bytes: int
    size_share: float

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise at the judged output."""
        return next(d.sqnr_db for d in self.comparison.drift if d.name == self.comparison.output)

    def as_json(self) -> dict[str, object]:
        """Return all figures as plain data."""
        return {**asdict(self), "sqnr_db": self.sqnr_db}


class Judge:
    """Judges the models made from one zoo entry; keeps what fp32 returned.

    Attributes:
        feeds: The inputs of the latency comparison.
    """

    def __init__(self, entry: Entry) -> None:
        self._reference = entry.model
        data = open_dataset(str(entry.evaluation), input_specs(load(entry.model)))
        self._task = Scorer(entry.model, data, TARGET, metric=entry.metric)
        by_agreement = self._task.metric.against_reference
        self._agreement = self._task if by_agreement else Scorer(entry.model, data, TARGET, metric="agreement")
        self.feeds = _first_row(dict(data[0].feeds))

    def judge(self, model: Path, processes: tuple[int, int] = (5, 15)) -> Judgement:
        """Return the judgement of `model`, its latency from at least and at most so many processes.

        Raises:
            OnnxoptError: It cannot be loaded, or does not stand in for the fp32 model.
        """
        comparison = self._task.compare(model)
        by_agreement = self._agreement is self._task
        size, reference_size = _bytes(model), _bytes(self._reference)
        return Judgement(
            comparison,
            comparison if by_agreement else self._agreement.compare(model, drift=False),
            compare_latency(
                self._reference,
                model,
                [self.feeds],
                TARGET,
                min_processes=processes[0],
                max_processes=processes[1],
            ),
            size,
            size / reference_size,
        )


def _first_row(feeds: Feeds) -> Feeds:
    """The first sample of a batch; feeds without a common first axis are one sample."""
    batches = {array.shape[:1] for array in feeds.values()}
    return {name: array[:1] for name, array in feeds.items()} if len(batches) == 1 else feeds


def _bytes(model: Path) -> int:
    return sum(file.stat().st_size for file in data_files(model))
