"""What raises the accuracy of INT8 before any layer is left in float: each fix is kept only when it lowers the error.

The error is that of the model's outputs, on samples that neither the fixes nor the ranges were fitted to. Fixes are
tried one after the other, each on top of those kept before; none changes the speed, so none is measured by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import OnnxoptError
from onnxopt.evaluate.yardstick import Yardstick
from onnxopt.passes.base import Context, Pass
from onnxopt.quantization.affine import WeightRange
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.fixes.equalize import Equalize
from onnxopt.quantization.fixes.outliers import EvenOut
from onnxopt.quantization.fixes.relu6 import ClipToRelu
from onnxopt.quantization.fixes.rounding import Rounding
from onnxopt.quantization.fixes.smooth import Smooth
from onnxopt.quantization.fixes.tables import QuantizeTables
from onnxopt.quantization.static import StaticQuantize

__all__ = ["Fixes", "choose_fixes", "choose_rounding"]

SAMPLES = 64
"""At most so many samples are fitted to, and as many judged on."""
WORTH_DB = 0.1
WORTH_TIME_DB = 1.0
"""A fix that costs time must gain as much as this."""
WORTH_SIZE_DB = 1.0
"""A step that makes the file smaller may lose as much as this."""
CLEAN_DB = 35.0
"""Outputs so close to float cannot be told from it: what makes the file smaller may cost this much."""
PERFECT_DB = 200.0
"""Stands for an infinite ratio, of outputs that are equal."""
TABLES = QuantizeTables()
STEPS: tuple[tuple[Pass, ...], ...] = ((Equalize(),), (ClipToRelu(), Equalize()), (Smooth(),), (EvenOut(),), (TABLES,))
"""A step counts as empty when its first pass changes nothing."""
DYNAMIC_STEPS: tuple[tuple[Pass, ...], ...] = ((Smooth(),), (EvenOut(),), (TABLES,))
NEEDED_DB = {EvenOut.name: WORTH_TIME_DB, TABLES.name: -WORTH_SIZE_DB}
"""What a step must gain, where that is not ``WORTH_DB``."""
BIAS = "correct-bias"
CLIP = "clip-weights"


Q = TypeVar("Q", bound=StaticQuantize | DynamicQuantize)


@dataclass(frozen=True, eq=False)
class Fixes:
    """What was kept.

    Attributes:
        model: The float model with the fixes of float models applied.
        passes: These, in order.
        correct_bias: Whether the biases of the quantized model are to be corrected.
        weight_range: How the scales of the weights are to be chosen.
        rounding: How the codes of the weights are to be chosen.
        notes: Each fix with the figures that decided on it.
    """

    model: Model
    passes: tuple[Pass, ...] = ()
    correct_bias: bool = False
    weight_range: WeightRange = "minmax"
    rounding: Rounding = "nearest"
    notes: tuple[Note, ...] = ()

    def of(self, quantize: Q) -> Q:
        """``quantize`` with what was kept."""
        if isinstance(quantize, StaticQuantize):
            quantize = replace(quantize, rounding=self.rounding, correct_bias=self.correct_bias)
        return replace(quantize, weight_range=self.weight_range)


def choose_fixes(
    model: Model,
    quantize: StaticQuantize | DynamicQuantize,
    data: Dataset,
    output: str | None,
    ctx: Context,
    is_over: Callable[[], bool] = lambda: False,
) -> Fixes:
    """The fixes that lower the error of what ``quantize`` makes of ``model``.

    Args:
        model: The float model; it is not changed.
        quantize: The pass that quantizes.
        data: Calibration samples: a part is fitted to, the rest decides.
        output: The output to judge by; ``None``: all.
        ctx: Target, folder and seed.
        is_over: Whether no further fix is to be tried.
    """
    judge = _judge(model, quantize, data, output, ctx)
    kept = Fixes(model)
    try:
        error_db = judge.output_db(kept)
    except OnnxoptError as error:
        return Fixes(model, notes=(Note("fixes", "skipped", error.what),))
    if error_db is None:
        return Fixes(model, notes=(Note("fixes", "skipped", "there is nothing to quantize or no number to judge by"),))
    is_static = isinstance(quantize, StaticQuantize)
    if is_static:
        kept, error_db = _toggle_bias(judge, kept, error_db)
    kept, error_db = _better(judge, kept, error_db, replace(kept, weight_range="mse"), CLIP, "")
    for step in STEPS if is_static else DYNAMIC_STEPS:
        if is_over():
            skipped = Note(" + ".join(item.name for item in step), "skipped", "there is no time left for it")
            return replace(kept, notes=(*kept.notes, skipped))
        kept, error_db = _apply(judge, kept, error_db, step)
    if kept.passes and is_static:  # they may have changed the answer
        kept, error_db = _toggle_bias(judge, kept, error_db)
    return kept


def choose_rounding(
    fixes: Fixes, quantize: StaticQuantize, data: Dataset, output: str | None, rounding: Rounding, ctx: Context
) -> Fixes:
    """``fixes`` with ``rounding``, where that lowers the error; arguments as for ``choose_fixes``."""
    judge = _judge(fixes.model, quantize, data, output, ctx)
    try:
        error_db = judge.output_db(fixes)
    except OnnxoptError as error:
        return replace(fixes, notes=(*fixes.notes, Note(rounding, "skipped", error.what)))
    if error_db is None:
        why = "there is nothing to quantize or no number to judge by"
        return replace(fixes, notes=(*fixes.notes, Note(rounding, "skipped", why)))
    return _better(judge, fixes, error_db, replace(fixes, rounding=rounding), rounding, "")[0]


def _judge(
    model: Model, quantize: StaticQuantize | DynamicQuantize, data: Dataset, output: str | None, ctx: Context
) -> _Judge:
    fit, check = split(data, calibration=SAMPLES, seed=ctx.seed)
    check = check.take(range(min(SAMPLES, len(check))))
    save_scratch(model, path := ctx.workdir / "fixes_float.onnx")
    return _Judge(Yardstick(path, check, ctx.target), quantize, len(check), output, replace(ctx, data=fit))


@dataclass(frozen=True)
class _Judge:
    """Judges one set of fixes after the other in the same way: ``exact`` measures distances from the float model."""

    exact: Yardstick
    quantize: StaticQuantize | DynamicQuantize
    samples: int
    output: str | None
    ctx: Context

    def output_db(self, fixes: Fixes) -> float | None:
        """Signal over error of the quantized model's outputs, their mean; ``None``: no integer layer or no number."""
        item = fixes.of(self.quantize)
        result = item.run(fixes.model.clone(), self.ctx)
        if not result.changes:
            return None
        path = self.ctx.workdir / "fixes_tried.onnx"
        save_scratch(result.model, path)
        drift = self.exact.drift(path)
        found = [d.sqnr_db for d in drift if d.sqnr_db is not None and self.output in (None, d.name)]
        return sum(max(-PERFECT_DB, min(db, PERFECT_DB)) for db in found) / len(found) if found else None


def _toggle_bias(judge: _Judge, kept: Fixes, kept_db: float) -> tuple[Fixes, float]:
    name = f"without {BIAS}" if kept.correct_bias else BIAS
    return _better(judge, kept, kept_db, replace(kept, correct_bias=not kept.correct_bias), name, "")


def _apply(judge: _Judge, kept: Fixes, kept_db: float, step: Sequence[Pass]) -> tuple[Fixes, float]:
    name, model, counts, notes = " + ".join(p.name for p in step), kept.model.clone(), list[int](), list[Note]()
    for item in step:
        try:
            result = item.run(model, judge.ctx)
        except OnnxoptError as error:
            return replace(kept, notes=(*kept.notes, Note(name, "declined", error.what))), kept_db
        model = result.model
        counts.append(result.changes)
        notes += [replace(note, node=f"{item.name}: {note.node}") for note in result.notes]
        if not counts[0]:
            notes.append(Note(name, "declined", f"{item.name} finds nothing to change"))
            return replace(kept, notes=(*kept.notes, *notes)), kept_db
    places = ", ".join(f"{item.name} in {count} places" for item, count in zip(step, counts, strict=True))
    tried = replace(kept, model=model, passes=(*kept.passes, *step), notes=(*kept.notes, *notes))
    return _better(judge, replace(kept, notes=tried.notes), kept_db, tried, name, f"{places}, ")


def _better(judge: _Judge, kept: Fixes, kept_db: float, tried: Fixes, name: str, detail: str) -> tuple[Fixes, float]:
    """The better of two sets of fixes, with a note of why, and its error."""
    try:
        tried_db = judge.output_db(tried)
    except OnnxoptError as error:
        tried_db, detail = None, error.what
    if tried_db is None:
        return replace(kept, notes=(*kept.notes, Note(name, "declined", detail))), kept_db
    taken = tried_db > kept_db + NEEDED_DB.get(name, WORTH_DB) or (name == TABLES.name and tried_db > CLEAN_DB)
    reason = f"{detail}outputs at {tried_db:.1f} dB with it, {kept_db:.1f} dB before, on {judge.samples} samples"
    note = Note(name, "taken" if taken else "declined", reason)
    chosen = tried if taken else kept
    return replace(chosen, notes=(*chosen.notes, note)), tried_db if taken else kept_db
