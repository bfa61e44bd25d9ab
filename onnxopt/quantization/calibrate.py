"""Ranges of activations from one streaming pass over the calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.quantization.observers import MinMax
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap

__all__ = ["calibrate"]


def calibrate(model: Model, names: Sequence[str], data: Dataset, ctx: Context) -> dict[str, MinMax]:
    """Statistics of the named values over ``data``; memory does not grow with the number of samples."""
    observers = dict.fromkeys(names, MinMax())
    with ctx.progress.task("calibrating", len(data)) as advance:

        def samples() -> Iterator[Feeds]:
            return (sample.feeds for sample in data)

        for values in tap(model, names, samples, ctx.target, ctx.workdir):
            for name, array in values.items():
                observers[name] = observers[name].update(array)
            advance(1)
    return observers
