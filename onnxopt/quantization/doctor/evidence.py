"""What a trained model remembers of the data it was trained on, compared with the data at hand read in several ways.

* A BatchNormalization that is still there stores mean and variance of what it saw: strong evidence. The distance is
  the Kullback-Leibler divergence of normal distributions, ``(v/V + (m - M)**2 / V - 1 - ln(v/V)) / 2`` with the stored
  ``M, V`` (Heusel et al. compare networks by such moments, https://arxiv.org/abs/1706.08500; Nagel et al. use the
  stored ones to correct biases, https://arxiv.org/abs/1906.04721).
* Where it was folded: the spread of the first layer's outputs over its biases, which folding makes comparable; the
  share of its channels that an activation never lets pass; and, of a classifier, how much the outputs tell the samples
  apart: the mutual information of sample and class, the score of https://arxiv.org/abs/1606.03498 (no logarithm is
  taken back). The first two say little where biases are small by training, so the last one must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from onnxopt.core.query import Model, constant
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.passes.cleanup.unused import RemoveUnused
from onnxopt.passes.constants import array_of, int_attribute, is_op
from onnxopt.quantization.doctor.moments import TINY, Moments, divergence, information
from onnxopt.quantization.doctor.readings import Reading
from onnxopt.quantization.select import ACTIVATIONS
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap

__all__ = ["FOLDS", "Folded", "folded_evidence", "stored_evidence"]

Array: TypeAlias = np.ndarray[Any, Any]

FOLDS = 4
"""Parts of the samples that are judged apart, so that chance shows."""
LAYERS = 6
"""The first BatchNormalizations are compared: further ones see the data through what these made of them."""
FIRST_ACTIVATIONS = 8


@dataclass(frozen=True)
class Folded:
    """Evidence without stored statistics, for one reading of the data.

    Attributes:
        spread: Median over the channels of the first layer's standard deviation, over the median magnitude of its bias.
        dead: Share of the channels of the first activations that are 0 on all samples; ``None``: no Relu or Clip.
        information: Mutual information of sample and class in nats; ``None``: the model is no classifier.
    """

    spread: float
    dead: float | None
    information: float | None


def stored_evidence(
    model: Model, name: str, axis: int | None, readings: Sequence[Reading], data: Dataset, ctx: Context
) -> dict[Reading, tuple[float, ...]] | None:
    """Distance from the stored statistics for each reading of input ``name`` and fold; ``None``: there are none."""
    stored = {value: parameters for value, parameters in _stored(model)}
    if not stored:
        return None
    stem = model.clone()
    values = {v.name: v for node in stem.graph for v in node.outputs}
    stem.graph.outputs.clear()
    stem.graph.outputs.extend(values[key] for key in stored)
    stem = RemoveUnused().run(stem, ctx).model
    moments = {(r, f, key): Moments() for r in readings for f in range(FOLDS) for key in stored}
    for reading, index, values_seen in _runs(stem, list(stored), name, axis, readings, data, ctx):
        for key, array in values_seen.items():
            moments[reading, index % FOLDS, key].update(array)
    folds = range(min(FOLDS, len(data)))
    return {
        r: tuple(float(np.mean([divergence(moments[r, f, key], *stored[key]) for key in stored])) for f in folds)
        for r in readings
    }


def folded_evidence(
    model: Model, name: str, axis: int | None, readings: Sequence[Reading], data: Dataset, ctx: Context
) -> dict[Reading, Folded] | None:
    """Evidence for each reading of input ``name``; ``None``: no layer with a bias comes first."""
    first = _first_layer(model)
    if first is None:
        return None
    layer, bias = first
    active = [n.outputs[0].name or "" for n in model.graph if n.op_type in ACTIVATIONS and n.domain == ""]
    active = active[:FIRST_ACTIVATIONS]
    output = model.graph.outputs[0].name or ""
    names = list(dict.fromkeys([layer, *active, output]))
    moments = {r: Moments() for r in readings}
    highest: dict[tuple[Reading, str], Array] = {}
    rows: dict[Reading, list[Array]] = {r: [] for r in readings}
    for reading, _, seen in _runs(model, names, name, axis, readings, data, ctx):
        for key, array in seen.items():
            if key == layer:
                moments[reading].update(array)
            if key in active and array.ndim > 1:
                top = array.max(axis=tuple(a for a in range(array.ndim) if a != 1))
                known = highest.get((reading, key))
                highest[reading, key] = top if known is None else np.maximum(known, top)
            if key == output and array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f":
                rows[reading].append(array)
    scale = max(float(np.median(np.abs(bias))), TINY)
    found: dict[Reading, Folded] = {}
    for r in readings:
        dead = [float(np.mean(highest[r, key] <= 0)) for key in active if (r, key) in highest]
        told = information(np.concatenate(rows[r])) if rows[r] else None
        found[r] = Folded(float(np.median(moments[r].std)) / scale, float(np.mean(dead)) if dead else None, told)
    return found


def _runs(
    model: Model,
    names: Sequence[str],
    name: str,
    axis: int | None,
    readings: Sequence[Reading],
    data: Dataset,
    ctx: Context,
) -> Iterator[tuple[Reading, int, Mapping[str, Array]]]:
    """Each reading of each sample: the reading, the index of the sample, and the named values."""

    def samples() -> Iterator[Feeds]:
        for sample in data:
            for reading in readings:
                yield {**sample.feeds, name: reading.apply(sample.feeds[name], axis)}

    total = len(data) * len(readings)
    with ctx.progress.task("reading the data in other ways", total) as advance:
        for count, values in enumerate(tap(model, names, samples, ctx.target, ctx.workdir)):
            index, which = divmod(count % total, len(readings))
            yield readings[which], index, values
            advance(1)


def _stored(model: Model) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """What the first BatchNormalizations read, and the mean and variance that they store."""
    for node in islice((n for n in model.graph if is_op(n, "BatchNormalization")), LAYERS):
        value = node.inputs[0]
        mean, var = array_of(node.inputs[3]), array_of(node.inputs[4])
        trains = len(node.outputs) > 1 or int_attribute(node, "training_mode", 0) != 0
        if trains or value is None or value.producer() is None or constant(value) is not None:
            continue
        if mean is not None and var is not None and value.name:
            yield value.name, (mean.astype(np.float64), var.astype(np.float64))


def _first_layer(model: Model) -> tuple[str, Array] | None:
    """The output of the first Conv or Gemm and its bias; ``None``: that has none."""
    for node in model.graph:
        if not is_op(node, "Conv", "Gemm", "MatMul"):
            continue
        bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
        return None if bias is None or not bias.any() else (node.outputs[0].name or "", bias)
    return None
