"""``doctor M.onnx --data D``: are these data fit to calibrate this model on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.commands.common import Source, open_data, open_model, workspace
from onnxopt.commands.quantize_data import CALIBRATION_SAMPLES
from onnxopt.core.progress import Progress
from onnxopt.core.query import Model, input_specs, output_specs
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import OnnxoptError, UsageError, nearest
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.doctor.answer import Answer, worst
from onnxopt.quantization.doctor.collapse import judge_calibrators
from onnxopt.quantization.doctor.normalisation import judge_normalisation
from onnxopt.quantization.doctor.outliers import judge_outliers
from onnxopt.quantization.doctor.samples import Inventory, judge_samples, take_stock
from onnxopt.quantization.doctor.stability import judge_stability
from onnxopt.quantization.doctor.watch import watch
from onnxopt.quantization.existing import require_float
from onnxopt.quantization.search.tryout import output_errors
from onnxopt.quantization.select import quantizable
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.target import Target

__all__ = ["examine_data"]

LAYERS = "layers"


def examine_data(
    path: Path, source: Source, *, target: Target, output_name: str | None = None, progress: Progress
) -> Report:
    """The questions about calibration data, each with a verdict, figures and advice.

    Args:
        path: The model.
        source: The data.
        target: Where the model runs.
        output_name: The output at which calibrators are judged; default: the first.
        progress: Told of each step.

    Raises:
        UsageError: The model has no output of that name.
        OnnxoptError: The model cannot be used or is all integers already, or the data are no data for it at all.
    """
    model = open_model(path, target)
    require_float(model, str(path), requantize=True)
    outputs = [spec.name for spec in output_specs(model)]
    if output_name is not None and output_name not in outputs:
        raise UsageError(
            f"the model has no output {output_name!r}", where="--output-name", fix=nearest(output_name, outputs)
        )
    data = open_data(source, path, model, target)
    specs = input_specs(model)
    stock = take_stock(data, specs, progress)
    answers = [judge_samples(stock, data)]
    if len(stock.usable):
        with workspace() as folder:
            ctx = Context(folder, stock.usable, target, source.seed, progress)
            answers += _with_model(model, path, stock, output_name or outputs[0], ctx)
    return _report(path, data, answers)


def _with_model(model: Model, path: Path, stock: Inventory, output: str, ctx: Context) -> list[Answer]:
    normalised = judge_normalisation(model, input_specs(model), stock, ctx)
    clean, _ = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path, rounds=ROUNDS)
    item = StaticQuantize()
    nothing = _why_nothing(clean, item, ctx)
    if nothing is not None:
        return [Answer(LAYERS, "Is there anything to calibrate?", "doubtful", nothing)]
    watched, places = watch(clean, quantizable(clean), stock.usable, item.calibrator, ctx)
    enough = judge_stability(watched, item.calibrator, len(stock.usable))
    outliers = judge_outliers(watched, places)
    calibration, held_back = split(stock.usable, calibration=CALIBRATION_SAMPLES, seed=ctx.seed)
    try:
        errors = output_errors(item, clean, path, held_back, output, replace(ctx, data=calibration))
    except OnnxoptError as error:
        reason = f"cannot be told: {error.what}"
        calibrators = Answer("calibrators", "Does every calibrator work?", "unknown", reason)
    else:
        calibrators = judge_calibrators(errors, item.calibrator)
    return [normalised, enough, outliers, calibrators]


def _why_nothing(clean: Model, item: StaticQuantize, ctx: Context) -> str | None:
    """Why no layer would run on integers; ``None``: some would."""
    try:
        result = item.run(clean.clone(), ctx)
    except OnnxoptError:
        return None
    if result.changes:
        return None
    first = f" ({result.notes[0].node}: {result.notes[0].reason})" if result.notes else ""
    return f"it has no Conv, Gemm or MatMul that can run on integers{first}"


def _report(path: Path, data: Dataset, answers: Sequence[Answer]) -> Report:
    summary = Table(
        "Calibration data", ("question", "verdict", "why"), tuple((a.question, a.word, a.reason) for a in answers)
    )
    questions: dict[str, JSON] = {a.key: {"verdict": a.word, "reason": a.reason, **a.data} for a in answers}
    return Report(
        "doctor",
        _verdict(path, data, answers),
        {"model": path.name, "source": data.source, "samples": len(data), "questions": questions},
        (summary, *(a.table for a in answers if a.table is not None)),
        (*(note for a in answers for note in a.advice), *(Note("data", "note", text) for text in data.notes)),
    )


def _verdict(path: Path, data: Dataset, answers: Sequence[Answer]) -> Verdict:
    nothing = next((a.reason for a in answers if a.key == LAYERS and a.word != "fine"), None)
    if nothing is not None:
        return Verdict(Status.UNCHANGED, f"there is nothing in {path.name} to calibrate on {data.source}: {nothing}")
    word = worst(a.word for a in answers)
    reasons = "; ".join(a.reason for a in answers if a.word == word)
    if word == "unusable":
        return Verdict(Status.FAIL, f"{data.source} is not fit to calibrate {path.name} on: {reasons}")
    if word == "doubtful":
        return Verdict(Status.PASS, f"{data.source} can calibrate {path.name}, but: {reasons}")
    return Verdict(Status.PASS, f"{data.source} is fit to calibrate {path.name} on: {len(data)} samples")
