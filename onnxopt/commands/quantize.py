"""``quantize``: the fastest INT8 form of a model within the accuracy budget, or the plain word that there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from onnxopt.commands.common import (
    Source,
    accuracy_table,
    as_json,
    check_output,
    data_notes,
    drift_table,
    first_feeds,
    latency_table,
    open_data,
    open_model,
    size_table,
    workspace,
)
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.provenance import stamp
from onnxopt.core.io import save
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import Model, nodes
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset, split
from onnxopt.errors import DataError, UsageError
from onnxopt.evaluate.compare import Scorer
from onnxopt.passes.base import Context
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.auto import Attempts, Mode, Search
from onnxopt.quantization.calibrators import Calibrator
from onnxopt.quantization.existing import require_float
from onnxopt.quantization.rounding import Rounding
from onnxopt.quantization.search import Candidate, best
from onnxopt.quantization.select import excluded, matching
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import open_session
from onnxopt.run.target import Target

__all__ = ["Mode", "quantize"]

CALIBRATION_SAMPLES = 128


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
    keep_failing: bool = False,
    accept_inconclusive: bool = False,
    workers: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Quantizes to INT8, judges accuracy on samples not used for calibration, measures against the input, decides.

    Args:
        path: The model; it is not changed.
        output: Where the result goes.
        source: Calibration data; static quantization needs them. Without, accuracy is only known on made-up inputs.
        mode: ``"static"``, ``"dynamic"``, or ``"auto"`` for the faster of both.
        calibrator: How ranges follow from the calibration data; ``"auto"``: the one of least output error on samples
            held back.
        rounding: ``"adaround"``: weights of static forms are rounded for the output of their layer, where that lowers
            the error on samples held back.
        eval_data: Data to judge by; default: the part of ``source`` that calibration does not use.
        max_drop: Largest drop of the metric.
        exclude: Patterns of node names, or op types, that stay float.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output_name: Name of the output that the metric judges.
        target: Where the model is to run.
        keep_failing: Write the fastest candidate even when it fails.
        accept_inconclusive: Write a candidate whose measurement was too noisy to decide.
        workers: Processes that share calibration; with ``ray``: its tasks at a time, 1: as many as it has cores for.
        ray: Address of a Ray cluster that calibrates, or ``"local"``.
        progress: Told of each step.

    Raises:
        UsageError: An exclusion pattern matches no node, or the output is the input.
        OnnxoptError: The model or the data cannot be used, or the output cannot be written.
    """
    source, target, progress = source or Source(), target or Target(), progress or SilentProgress()
    if mode == "static" and source.path is None:
        raise DataError(
            "static quantization needs data to calibrate on",
            where=f"onnxopt quantize {path.name} --mode static",
            fix="give --data, or use --mode dynamic",
        )
    if mode == "dynamic" and calibrator != "auto":
        raise UsageError(
            "dynamic quantization finds its ranges at run time and calibrates nothing",
            where=f"--mode dynamic --calibrator {calibrator}",
            fix="leave --calibrator out, or use --mode static",
        )
    if mode == "dynamic" and rounding != "nearest":
        raise UsageError(
            "dynamic quantization has no data to round weights by",
            where=f"--mode dynamic --rounding {rounding}",
            fix="leave --rounding out, or use --mode static",
        )
    model = open_model(path, target)
    require_float(model, str(path))
    excluded(nodes(model), exclude)
    final = check_output(output, path, source.path, eval_data, source.preprocess)
    calibration, held_back = _data(source, eval_data, path, model, target)
    scorer = Scorer(path, held_back, target, metric=metric, output=output_name, seed=source.seed, progress=progress)
    with workspace() as folder:
        ctx = Context(folder, calibration, target, source.seed, progress, workers, ray)
        cleanups = [create(name) for name in OPTIMIZE]
        clean, _ = run(model, cleanups, ctx, reference=path, rounds=ROUNDS)
        feeds = first_feeds(held_back)
        kept = tuple(p for p in exclude if matching(nodes(clean), p))  # clean-ups may have folded the others away
        attempts = Search(
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
        ).run()
        candidates, fixes = attempts.candidates, attempts.fixes
        chosen = best(candidates) or _second_best(candidates, accept_inconclusive, keep_failing)
        if chosen is not None and chosen.model is not None and chosen.comparison is not None:
            facts: dict[str, JSON] = {
                "max_drop": max_drop,
                # Not what the clock said, which is not the same every time.
                "within_budget": chosen.comparison.is_within(max_drop),
                "metric": chosen.comparison.metric,
                "reference_score": chosen.comparison.reference_score,
                "candidate_score": chosen.comparison.candidate_score,
                "samples": chosen.comparison.samples,
            }
            changes = {chosen.item.name: chosen.changes}
            fixed = fixes.passes if isinstance(chosen.item, StaticQuantize) else ()
            recipe = [*cleanups, *fixed, chosen.item]
            stamp(chosen.model, path, recipe, changes=changes, verdict=facts, data=calibration)
            save(chosen.model, chosen.path)
            open_session(chosen.path, target)
            save(chosen.model, final)
        report = _report(path, attempts, chosen, held_back, calibration)
        models = {"input": path} if chosen is None else {"input": path, "output": chosen.path}
        return with_fallback(report, models, feeds, target)


def _data(source: Source, eval_data: str | None, path: Path, model: Model, target: Target) -> tuple[Dataset, Dataset]:
    given = open_data(source, path, model, target)
    if eval_data is not None:
        judge = Source(eval_data, source.labels, source.preprocess, None, source.seed)
        return given, open_data(judge, path, model, target)
    return split(given, calibration=CALIBRATION_SAMPLES, seed=source.seed)


def _second_best(candidates: Sequence[Candidate], accept_inconclusive: bool, keep_failing: bool) -> Candidate | None:
    wanted = [
        *(["undecided"] if accept_inconclusive or keep_failing else []),
        *(["not faster", "inaccurate"] if keep_failing else []),
    ]
    return next((c for outcome in wanted for c in candidates if c.outcome == outcome), None)


def _report(
    path: Path, attempts: Attempts, chosen: Candidate | None, held_back: Dataset, calibration: Dataset
) -> Report:
    candidates, tried = attempts.candidates, attempts.calibrators
    judged = {c.name: c.latency for c in candidates if c.latency is not None}
    tables: list[Table] = [
        Table("Candidates", ("candidate", "integer nodes", "outcome", "why"), tuple(_row(c) for c in candidates))
    ]
    if tried:
        tables.append(Table("Calibrators", ("calibrator", "SQNR dB"), tuple(tried.items())))
    if chosen is not None and chosen.comparison is not None:
        tables += [accuracy_table(chosen.comparison), drift_table(chosen.comparison)]
        tables.append(size_table({"input": path, "output": chosen.path}))
    if judged:
        tables.append(latency_table(judged, "Against the input, interleaved in fresh processes"))
    return Report(
        "quantize",
        _verdict(candidates, chosen),
        {
            "candidates": [
                {
                    "name": c.name,
                    "outcome": c.outcome,
                    "reason": c.reason,
                    "integer_nodes": c.changes,
                    "comparison": None if c.comparison is None else as_json(c.comparison),
                    "latency": None if c.latency is None else as_json(c.latency),
                }
                for c in candidates
            ],
            "chosen": None if chosen is None else chosen.name,
            "calibrators": {name: sqnr_db if math.isfinite(sqnr_db) else None for name, sqnr_db in tried.items()},
            "calibration_samples": 0 if calibration.synthetic else len(calibration),
            "fixes": [as_json(n) for n in attempts.fixes.notes],
            "judged_on": len(held_back),
            "synthetic": held_back.synthetic,
        },
        tuple(tables),
        (*attempts.fixes.notes, *_notes(candidates, chosen, held_back)),
    )


def _row(candidate: Candidate) -> tuple[str, int, str, str]:
    return candidate.name, candidate.changes, candidate.outcome, candidate.reason


def _verdict(candidates: Sequence[Candidate], chosen: Candidate | None) -> Verdict:
    if chosen is not None and chosen.outcome == "faster":
        return Verdict(Status.PASS, f"{chosen.name}: {chosen.reason}")
    reasons = "; ".join(f"{c.name}: {c.outcome}, {c.reason}" for c in candidates)
    if all(c.outcome == "unchanged" for c in candidates):
        return Verdict(Status.UNCHANGED, f"nothing to quantize: {reasons}")
    if any(c.outcome == "undecided" for c in candidates):
        return Verdict(Status.INCONCLUSIVE, f"too noisy to say that INT8 is faster: {reasons}")
    return Verdict(Status.FAIL, f"no INT8 form is faster and within the budget, the input model is best: {reasons}")


def _notes(candidates: Sequence[Candidate], chosen: Candidate | None, held_back: Dataset) -> tuple[Note, ...]:
    shown = [chosen] if chosen is not None else candidates
    notes = [Note(f"{c.name}: {n.node}", n.verdict, n.reason) for c in shown for n in c.notes]
    return (*notes, *data_notes(held_back))
