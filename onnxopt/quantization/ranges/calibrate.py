"""Statistics of activations from one streaming pass over the calibration data, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.quantization.ranges.observers import Histogram, Statistics
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap
from onnxopt.run.target import Target

__all__ = ["calibrate"]


def calibrate(
    model: Model,
    names: Sequence[str],
    data: Dataset,
    target: Target,
    workdir: Path,
    *,
    histograms: bool,
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[str, Statistics]:
    """Statistics of the named values over ``data``; memory does not grow with the number of samples.

    Args:
        model: The model; it is not changed.
        names: Names of values, each unique in the model. A value that no sample reaches keeps empty statistics.
        data: The samples; statistics per sample are those of one call each.
        target: Where the model runs.
        workdir: Folder for intermediate files.
        histograms: Whether ranges alone do not do.
        advance: Told of each call of the model.
    """
    found = dict.fromkeys(names, Statistics(histogram=Histogram() if histograms else None))

    def samples() -> Iterator[Feeds]:
        return (sample.feeds for sample in data)

    for values in tap(model, names, samples, target, workdir):
        for name, array in values.items():
            found[name] = found[name].update(array)
        advance(1)
    return found
