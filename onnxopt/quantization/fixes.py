"""What raises the accuracy of INT8 before any layer is left in float: each fix is kept only when it lowers the error.

The error is that of the model's outputs, on samples that neither the fixes nor the ranges were fitted to. Fixes are tried
one after the other, each on top of those kept before; none changes the speed, so none is measured by the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.core.io import save
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import OnnxoptError
from onnxopt.evaluate.drift import DriftMeter
from onnxopt.passes.base import Context, Pass
from onnxopt.quantization.equalize import Equalize
from onnxopt.quantization.relu6 import ClipToRelu
from onnxopt.quantization.smooth import Smooth
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import open_session

__all__ = ["Fixes", "choose_fixes"]

SAMPLES = 64
"""At most so many samples are fitted to, and as many judged on."""
WORTH_DB = 0.1
PERFECT_DB = 200.0
"""Stands for an infinite ratio, of outputs that are equal."""
STEPS: tuple[tuple[Pass, ...], ...] = ((Equalize(),), (ClipToRelu(), Equalize()), (Smooth(),))
BIAS = "correct-bias"


@dataclass(frozen=True, eq=False)
class Fixes:
    """What was kept.

    Attributes:
        model: The float model with the fixes of float models applied.
        passes: These, in order.
        correct_bias: Whether the biases of the quantized model are to be corrected.
        notes: Each fix with the figures that decided on it.
    """

    model: Model
    passes: tuple[Pass, ...] = ()
    correct_bias: bool = False
    notes: tuple[Note, ...] = ()


def choose_fixes(model: Model, quantize: StaticQuantize, data: Dataset, output: str | None, ctx: Context) -> Fixes:
    """The fixes that lower the error of what ``quantize`` makes of ``model``.

    Args:
        model: The float model; it is not changed.
        quantize: The pass that quantizes.
        data: Calibration samples: a part is fitted to, the rest decides.
        output: The output to judge by; ``None``: all.
        ctx: Target, folder and seed.
    """
    fit, check = split(data, calibration=SAMPLES, seed=ctx.seed)
    check = check.take(range(min(SAMPLES, len(check))))
    trial = _Trial(model, quantize, check, output, replace(ctx, data=fit))
    error_db = trial.error_db(Fixes(model))
    if isinstance(error_db, str):
        return Fixes(model, notes=(Note("fixes", "skipped", error_db),))
    kept = Fixes(model)
    steps: list[tuple[Pass, ...]] = [(), *STEPS]
    for step in [*steps, ()]:
        if not step and kept.notes and not kept.passes:
            break  # the last step looks at the biases again, since the passes kept may have changed the answer
        changed = trial.with_passes(kept, step) if step else replace(kept, correct_bias=not kept.correct_bias)
        name = "+".join(item.name for item in step) or (BIAS if changed.correct_bias else f"no {BIAS}")
        found = changed.notes[-1].reason if changed is kept else trial.error_db(changed)
        del found
    return kept


@dataclass(frozen=True, eq=False)
class _Trial:
    """Judges one set of fixes after the other in the same way."""

    model: Model
    quantize: StaticQuantize
    check: Dataset
    output: str | None
    ctx: Context
