"""``quantize``: the fastest INT8, weight-only or 16-bit form of a model within the accuracy budget, if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from onnxopt.commands.common import (
    Source,
    check_output,
    first_feeds,
    open_model,
    workspace,
)
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.provenance import stamp
from onnxopt.commands.quantize_data import CALIBRATION_SAMPLES, calibrated, fitted_to, split_data, spread
from onnxopt.commands.quantize_options import check_options, weight_options
from onnxopt.commands.quantize_report import quantize_report, with_nonfinite, with_repairs
from onnxopt.commands.recovery import Recovery, check_recovery, check_samples, distilled_forms
from onnxopt.core.atomic import check_writable
from onnxopt.core.io import save, save_scratch
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import nodes
from onnxopt.core.report import JSON, Report
from onnxopt.evaluate.compare import Scorer
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.existing import require_float
from onnxopt.quantization.fixes.rounding import Rounding
from onnxopt.quantization.nonfinite import nonfinite_constants
from onnxopt.quantization.patterns import excluded, matching
from onnxopt.quantization.portability.deployment import HOST, deployment
from onnxopt.quantization.ranges.calibrators import Calibrator
from onnxopt.quantization.search.auto import Mode, Search
from onnxopt.quantization.search.budget import MOST_EVALS, Budget
from onnxopt.quantization.search.candidates import Candidate, best
from onnxopt.run.session import open_session
from onnxopt.run.settings import settings_path, write_settings
from onnxopt.run.target import Target

__all__ = ["Mode", "quantize"]


def quantize(
    path: Path,
    output: Path,
    source: Source | None = None,
    *,
    mode: Mode = "auto",
    calibrator: Calibrator | Literal["auto"] = "auto",
    rounding: Rounding = "nearest",
    eval_data: str | None = None,
    max_drop: float = 0.01,
    exclude: Sequence[str] = (),
    metric: str | None = None,
    output_name: str | None = None,
    target: Target | None = None,
    place: str = HOST,
    keep_failing: bool = False,
    accept_inconclusive: bool = False,
    workers: int = 1,
    max_evals: int = MOST_EVALS,
    time_limit: float | None = None,
    algorithm: str = "auto",
    bits: int | None = None,
    block_size: int | None = None,
    requantize: bool = False,
    recover: Recovery | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Quantizes, judges on samples not used for calibration, measures against the input, decides.

    Args:
        path: The model; it is not changed.
        output: Where the result goes.
        source: Calibration data; static quantization needs them. Without, accuracy is only known on made-up inputs.
        mode: ``"static"``, ``"dynamic"``, or ``"auto"`` for the faster of both; ``"weights"``: weights in 4 or 8 bits,
            for size (what is smaller and not slower passes); ``"float16"``, ``"bfloat16"``.
        calibrator: How ranges follow from the calibration data; ``"auto"``: the one of least output error on samples
            held back.
        rounding: ``"adaround"``: weights of static forms are rounded for the output of their layer, where that lowers
            the error on samples held back.
        eval_data: Data to judge by; default: the part of ``source`` that calibration does not use.
        max_drop: Largest drop of the metric.
        exclude: Patterns of node names, or op types, that stay float.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output_name: Name of the output that the metric judges.
        target: Where the model is run here.
        place: Name of the target that the file is for; ``"host"``: this machine. The speed on another one is not known.
        keep_failing: Write the fastest candidate even when it fails.
        accept_inconclusive: Write a candidate whose measurement was too noisy to decide.
        workers: Processes that share calibration; with ``ray``: its tasks at a time, 1: as many as it has cores for.
        recover: ``"distill"``: forms that are over the budget are trained to answer as the input does; with
            ``time_limit``, one training takes at most that long.
        ray: Address of a Ray cluster that calibrates, or ``"local"``.
        max_evals: Most evaluations of a model on the judging samples.
        time_limit: Seconds after which nothing further is tried; the first candidate is always judged.
        algorithm: How ``mode="weights"`` rounds: ``"rtn"``, ``"hqq"``, ``"gptq"``; ``"auto"``: the one of least output
            error on samples held back.
        bits: Of a weight, 4 or 8; default: 4, and 8 where 4 fails.
        block_size: Weights that share a scale, 16 to 256; default: 128, and 32 where that is not accurate enough.
        requantize: Accept a model that is quantized in part: what runs on integers stays as it is, the rest is tried.
        progress: Told of each step.

    Raises:
        UsageError: An exclusion pattern matches no node, the target is unknown, or the output is the input.
        OnnxoptError: The model or the data cannot be used, or the output cannot be written.
    """
    source, target, progress = source or Source(), target or Target(), progress or SilentProgress()
    budget = Budget(max_evals, time_limit)
    where = deployment(place, target)
    check_recovery(recover)
    weights = weight_options(algorithm, bits, block_size)
    has_data = source.path is not None
    check_options(mode, calibrator, rounding, weights, where, has_data=has_data, on_cluster=ray is not None)
    model = open_model(path, target)
    require_float(model, str(path), requantize=requantize)
    excluded(nodes(model), exclude)
    final = check_output(output, path, source.path, eval_data, source.preprocess)
    check_writable(settings_path(final))
    fitted, held_back = split_data(source, eval_data, path, model, target, fitted_to if recover else calibrated)
    check_samples(recover, fitted, held_back, eval_data)
    calibration = spread(fitted, CALIBRATION_SAMPLES) if recover else fitted
    scorer = Scorer(path, held_back, target, metric=metric, output=output_name, seed=source.seed, progress=progress)
    with workspace() as folder:
        ctx = Context(folder, calibration, target, source.seed, progress, workers, ray)
        cleanups = [create(name) for name in OPTIMIZE]
        clean, _ = run(model, cleanups, ctx, reference=path, rounds=ROUNDS)
        feeds = first_feeds(held_back)
        kept = tuple(p for p in exclude if matching(nodes(clean), p))  # clean-ups may have folded the others away
        search = Search(
            model=clean,
            reference=path,
            mode=mode,
            exclude=kept,
            calibrator=calibrator,
            rounding=rounding,
            max_drop=max_drop,
            scorer=scorer,
            held_back=held_back,
            feeds=feeds,
            ctx=ctx,
            budget=budget,
            weights=weights,
            place=where,
        )
        attempts = search.run()
        if recover is not None:
            attempts = distilled_forms(attempts, search, fitted, time_limit)
        candidates = attempts.candidates
        chosen = best(candidates) or _second_best(candidates, accept_inconclusive, keep_failing)
        if chosen is not None and chosen.model is not None and chosen.comparison is not None:
            facts: dict[str, JSON] = {
                **({} if place == HOST else {"target": where.name}),
                "max_drop": max_drop,
                # Not what the clock said, which is not the same every time.
                "within_budget": chosen.comparison.promises(max_drop),
                "metric": chosen.comparison.metric,
                "reference_score": chosen.comparison.reference_score,
                "candidate_score": chosen.comparison.candidate_score,
                "samples": chosen.comparison.samples,
            }
            changes = {chosen.item.name: chosen.changes}
            recipe = [*cleanups, *chosen.fixes, chosen.item, *chosen.further]
            stamp(chosen.model, path, recipe, changes=changes, verdict=facts, data=calibration)
            save_scratch(chosen.model, chosen.path)
            open_session(chosen.path, target)
            save(chosen.model, final)
            write_settings(final, chosen.settings)
        report = quantize_report(path, final, attempts, chosen, held_back, calibration, budget, where)
        shown = chosen or next((c for c in candidates if c.outcome == "undecided"), None)
        if shown is not None and shown.repaired is not None:
            report = with_repairs(report, shown, shown.repaired, scorer)
        report = with_nonfinite(report, nonfinite_constants(clean))
        models = {"input": path} if chosen is None else {"input": path, "output": chosen.path}
        return with_fallback(report, models, feeds, target)


def _second_best(candidates: Sequence[Candidate], accept_inconclusive: bool, keep_failing: bool) -> Candidate | None:
    wanted = [
        "smaller",
        *(["undecided"] if accept_inconclusive or keep_failing else []),
        *(["not faster", "not smaller", "inaccurate"] if keep_failing else []),
    ]
    return next((c for outcome in wanted for c in candidates if c.outcome == outcome), None)
