"""``quantize``: the fastest INT8 form of a model within the accuracy budget, or the plain word that there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

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
from onnxopt.errors import DataError
from onnxopt.evaluate.compare import Scorer
from onnxopt.passes.base import Context, Pass
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from onnxopt.quantization.dynamic import DynamicQuantize, macs_share
from onnxopt.quantization.existing import require_float
from onnxopt.quantization.gains import where_it_gains
from onnxopt.quantization.restore import RANKED_ON, keep_within
from onnxopt.quantization.search import Candidate, best, try_candidate
from onnxopt.quantization.select import excluded, matching, stems
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.tap import observed_shapes
from onnxopt.run.target import Target

__all__ = ["Mode", "quantize"]

Mode: TypeAlias = Literal["auto", "static", "dynamic"]

CALIBRATION_SAMPLES = 128
SLACK = 4.0
"""A multiply-accumulate of a memory-bound layer is taken to cost at most this many times the average one."""


def quantize(
    path: Path,
    output: Path,
    source: Source | None = None,
    *,
    mode: Mode = "auto",
    eval_data: str | None = None,
    max_drop: float = 0.01,
    exclude: Sequence[str] = (),
    metric: str | None = None,
    output_name: str | None = None,
    target: Target | None = None,
    keep_failing: bool = False,
    accept_inconclusive: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Quantizes to INT8, judges accuracy on samples not used for calibration, measures against the input, decides.

    Args:
        path: The model; it is not changed.
        output: Where the result goes.
        source: Calibration data; static quantization needs them. Without, accuracy is only known on made-up inputs.
        mode: ``"static"``, ``"dynamic"``, or ``"auto"`` for the faster of both.
        eval_data: Data to judge by; default: the part of ``source`` that calibration does not use.
        max_drop: Largest drop of the metric.
        exclude: Patterns of node names, or op types, that stay float.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output_name: Name of the output that the metric judges.
        target: Where the model is to run.
        keep_failing: Write the fastest candidate even when it fails.
        accept_inconclusive: Write a candidate whose measurement was too noisy to decide.
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
    model = open_model(path, target)
    require_float(model, str(path))
    excluded(nodes(model), exclude)
    final = check_output(output, path, source.path, eval_data, source.preprocess)
    calibration, held_back = _data(source, eval_data, path, model, target)
    scorer = Scorer(path, held_back, target, metric=metric, output=output_name, seed=source.seed, progress=progress)
    with workspace() as folder:
        ctx = Context(folder, calibration, target, source.seed, progress)
        cleanups = [create(name) for name in OPTIMIZE]
        clean, _ = run(model, cleanups, ctx, reference=path, rounds=ROUNDS)
        feeds = first_feeds(held_back)
        kept = tuple(p for p in exclude if matching(nodes(clean), p))  # clean-ups may have folded the others away
        candidates: list[Candidate] = []
        for name, item in _attempts(mode, kept, clean, calibration).items():
            hopeless = _cannot_win(item, clean, best(candidates), feeds[0], ctx)
            if hopeless is None:
                candidates.append(try_candidate(name, item, clean, path, scorer, feeds, max_drop, ctx))
            else:
                candidates.append(Candidate(name, item, None, folder / name, 0, "not tried", hopeless))
            made = candidates[-1]
            if mode == "auto" and name == "static" and isinstance(item, StaticQuantize) and made.model is not None:
                better = where_it_gains(clean, item, made.model, feeds, ctx)
                if better is not None:
                    name = "static, where it gains"
                    candidates.append(try_candidate(name, better, clean, path, scorer, feeds, max_drop, ctx))
        restored = _restored(candidates, clean, held_back, scorer, max_drop, ctx) if mode == "auto" else None
        if restored is not None:
            name = "static, sensitive layers float"
            candidates.append(try_candidate(name, restored, clean, path, scorer, feeds, max_drop, ctx))
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
            stamp(chosen.model, path, [*cleanups, chosen.item], changes=changes, verdict=facts, data=calibration)
            save(chosen.model, chosen.path)
            open_session(chosen.path, target)
            save(chosen.model, final)
        report = _report(path, candidates, chosen, held_back, calibration)
        models = {"input": path} if chosen is None else {"input": path, "output": chosen.path}
        return with_fallback(report, models, feeds, target)


def _data(source: Source, eval_data: str | None, path: Path, model: Model, target: Target) -> tuple[Dataset, Dataset]:
    given = open_data(source, path, model, target)
    if eval_data is not None:
        judge = Source(eval_data, source.labels, source.preprocess, None, source.seed)
        return given, open_data(judge, path, model, target)
    return split(given, calibration=CALIBRATION_SAMPLES, seed=source.seed)


def _attempts(mode: Mode, exclude: tuple[str, ...], model: Model, calibration: Dataset) -> dict[str, Pass]:
    """The candidates that the mode allows, by name."""
    attempts: dict[str, Pass] = {}
    if mode == "static" or (mode == "auto" and not calibration.synthetic):
        attempts["static"] = StaticQuantize(exclude)
        if stems(model):
            attempts["static, float stem"] = StaticQuantize(exclude, float_stem=True)
    if mode != "static":
        attempts["dynamic"] = DynamicQuantize(exclude)
    return attempts


def _restored(
    candidates: Sequence[Candidate], model: Model, held_back: Dataset, scorer: Scorer, max_drop: float, ctx: Context
) -> StaticQuantize | None:
    """The last inaccurate static candidate with its most sensitive layers in float, searched on half of the data.

    The other half is left for ``try_candidate``, which judges on all.
    """
    tried = [c for c in candidates if isinstance(c.item, StaticQuantize) and c.name != "static, float stem"]
    if not tried or tried[-1].outcome != "inaccurate" or not isinstance(tried[-1].item, StaticQuantize):
        return None
    half = held_back.take(range(0, len(held_back), 2))
    judge = Scorer(scorer.reference, half, ctx.target, metric=scorer.metric.name, output=scorer.output, seed=ctx.seed)
    feeds = [ctx.data[i].feeds for i in range(min(RANKED_ON, len(ctx.data)))] if ctx.data else []
    return keep_within(model, tried[-1].item, judge, max_drop, feeds, ctx)


def _cannot_win(item: Pass, model: Model, leader: Candidate | None, feeds: Feeds, ctx: Context) -> str | None:
    """Why a candidate need not be tried: what it leaves float alone takes longer than the leader; ``None``: try it."""
    if not isinstance(item, DynamicQuantize) or leader is None or leader.latency is None:
        return None
    share = macs_share(model, observed_shapes(model, feeds, ctx.target, ctx.workdir))
    if leader.latency.high >= 1 - SLACK * share:
        return None
    return f"it reaches {share:.1%} of the multiply-accumulates and cannot be as fast as {leader.name!r}"


def _second_best(candidates: Sequence[Candidate], accept_inconclusive: bool, keep_failing: bool) -> Candidate | None:
    wanted = [
        *(["undecided"] if accept_inconclusive or keep_failing else []),
        *(["not faster", "inaccurate"] if keep_failing else []),
    ]
    return next((c for outcome in wanted for c in candidates if c.outcome == outcome), None)


def _report(
    path: Path, candidates: Sequence[Candidate], chosen: Candidate | None, held_back: Dataset, calibration: Dataset
) -> Report:
    judged = {c.name: c.latency for c in candidates if c.latency is not None}
    tables: list[Table] = [
        Table("Candidates", ("candidate", "integer nodes", "outcome", "why"), tuple(_row(c) for c in candidates))
    ]
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
            "calibration_samples": 0 if calibration.synthetic else len(calibration),
            "judged_on": len(held_back),
            "synthetic": held_back.synthetic,
        },
        tuple(tables),
        _notes(candidates, chosen, held_back),
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
