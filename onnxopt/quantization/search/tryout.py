"""Which calibrator suits a model: each is tried, from one pass over the data, and judged by what reaches the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.errors import ModelError
from onnxopt.evaluate.yardstick import Yardstick
from onnxopt.passes.base import Context
from onnxopt.quantization.ranges.calibrators import CALIBRATORS, Calibrator
from onnxopt.quantization.static import StaticQuantize

__all__ = ["least_error", "output_errors"]

SAMPLES = 32
MARGIN_DB = 0.5
"""A calibrator must be better by this much to replace the default: less is the luck of the samples."""


def output_errors(
    item: StaticQuantize,
    model: Model,
    reference: Path,
    held_back: Dataset,
    output: str,
    ctx: Context,
    calibrators: Sequence[Calibrator] = CALIBRATORS,
) -> dict[Calibrator, float]:
    """SQNR (dB) at ``output`` on samples that were not calibrated on, for each calibrator.

    Args:
        item: The pass; only its calibrator is varied.
        model: The cleaned-up float model; it is not changed.
        reference: File of the input model.
        held_back: Samples to judge by; the first ``SAMPLES`` are used.
        output: Name of the output that counts.
        ctx: Calibration data, target, folder.
        calibrators: Which are tried.

    Returns:
        Nothing where the pass changes nothing, its model does not load, or the output holds no numbers.
    """
    samples = held_back.take(range(min(SAMPLES, len(held_back))))
    exact = Yardstick(reference, samples, ctx.target, (output,))
    found: dict[Calibrator, float] = {}
    path = ctx.workdir / "tryout.onnx"
    # The first one collects histograms, so that all others read what it has found.
    ordered: list[Calibrator] = sorted(calibrators, key="mse".__ne__)
    with ctx.progress.task("trying calibrators", len(ordered)) as advance:
        for calibrator in ordered:
            try:
                result = replace(item, calibrator=calibrator).run(model.clone(), ctx)
                if not result.changes:
                    return {}
                save_scratch(result.model, path)
                sqnr_db = exact.drift(path)[0].sqnr_db
            except ModelError:
                return {}
            if sqnr_db is None:
                return {}
            found[calibrator] = sqnr_db
            advance(1)
    return found


def least_error(found: Mapping[Calibrator, float], default: Calibrator) -> Calibrator:
    """The calibrator of the highest SQNR, or ``default`` where none is better by ``MARGIN_DB``."""
    best = default
    for name, sqnr_db in found.items():
        if sqnr_db > found.get(best, -math.inf):
            best = name
    if default not in found or not math.isfinite(found[default]):
        return best
    return best if found[best] > found[default] + MARGIN_DB else default
