"""Which layers of a model saturate on an x86 CPU without VNNI, and what that does to them, on some samples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from onnxopt.core.report import Note
from onnxopt.passes.base import Context
from onnxopt.quantization.portability.simulate import simulate
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = ["SAMPLES", "Audit", "Risk", "audit"]

SAMPLES = 32
"""Saturation is looked for in so many samples."""


@dataclass(frozen=True)
class Risk:
    """What saturation does to one layer.

    Attributes:
        weight: Name of its stored weight.
        op_type: Operator that it runs as.
        possible: Share of its pairs of weights that can saturate.
        saturated: Share of the sums of two products that did, on the samples; ``None``: not counted (nested graphs).
        sqnr_db: Output of the layer against the exact one; infinite where nothing saturated.
    """

    weight: str
    op_type: str
    possible: float
    saturated: float | None
    sqnr_db: float | None

    @property
    def happens(self) -> bool:
        """Whether it saturates on the samples; where that was not counted, whether it can."""
        return self.saturated is None or self.saturated > 0


@dataclass(frozen=True)
class Audit:
    """What was found in one model.

    Attributes:
        path: The model that stands in for it on a CPU without VNNI.
        layers: Number of its layers that multiply U8 by S8.
        risks: Those that can saturate, in graph order.
        samples: Number of samples that were looked at.
        notes: Layers that are not simulated, with the reason.
    """

    path: Path
    layers: int
    risks: tuple[Risk, ...]
    samples: int
    notes: tuple[Note, ...]

    @property
    def happening(self) -> tuple[Risk, ...]:
        """The layers that saturate on the samples."""
        return tuple(risk for risk in self.risks if risk.happens)


def audit(path: Path, feeds: Iterable[Feeds], ctx: Context, *, name: str | None = None) -> Audit:
    """What becomes of the model at ``path`` on an x86 CPU without VNNI.

    Args:
        path: The model; it is not changed.
        feeds: Samples; the first ``SAMPLES`` are used.
        ctx: Folder and progress.
        name: Stem of the files that are written; default: that of the model.

    Raises:
        ModelError: The model cannot be loaded.
        DataError: It does not run on a sample, or there is none.
    """
    samples = list(islice(feeds, SAMPLES))
    counted = simulate(path, samples[0], ctx.workdir, name=name)
    sums = {layer: np.zeros(4) for layer in counted.figures}
    if counted.figures:
        session = open_session(counted.figures_path, Target(threads=ctx.target.threads))
        names = [value for group in counted.figures.values() for value in group]
        with ctx.progress.task("looking for saturation", len(samples)) as advance:
            for sample in samples:
                found = session.run(sample, names)
                for layer, group in counted.figures.items():
                    sums[layer] += [float(found[value]) for value in group]
                advance(1)
    risks: list[Risk] = []
    for layer in counted.layers:
        if not len(layer.pairs.first):
            continue
        share, sqnr_db = None, None
        if layer in sums:
            saturated, results, signal, noise = (float(x) for x in sums[layer])
            share = saturated / max(results * layer.pairs.total / layer.channels, 1)
            sqnr_db = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
        possible = len(layer.pairs.first) / layer.pairs.total
        risks.append(Risk(layer.weight, layer.node.op_type, possible, share, sqnr_db))
    return Audit(counted.path, len(counted.layers), tuple(risks), len(samples), counted.notes)
