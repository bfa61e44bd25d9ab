"""What ``quantize`` says of its search: every candidate with its outcome, and the evidence for the chosen one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.commands.common import accuracy_table, as_json, data_notes, drift_table, latency_table, size_table
from onnxopt.commands.saturation import accuracies, repair_data, repair_table
from onnxopt.core.report import Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import Scorer
from onnxopt.quantization.portability.deployment import Deployment
from onnxopt.quantization.portability.repair import Repaired
from onnxopt.quantization.search.auto import Attempts
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.search.candidates import Candidate
from onnxopt.run.settings import settings_path

__all__ = ["quantize_report", "with_nonfinite", "with_repairs"]


def quantize_report(
    path: Path,
    final: Path,
    attempts: Attempts,
    chosen: Candidate | None,
    held_back: Dataset,
    calibration: Dataset,
    budget: Budget,
    where: Deployment,
) -> Report:
    """The report of a search.

    Args:
        path: The input model.
        final: Where the result was written, if there is one.
        attempts: What was tried.
        chosen: What was written.
        held_back: Samples that judged.
        calibration: Samples that were calibrated on.
        budget: What was spent.
        where: Where the result is to run.
    """
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
        _verdict(candidates, chosen, attempts.goal, where),
        {
            "target": {"name": where.name, "speed_measured": where.is_here},
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
            "fixes": [as_json(n) for f in attempts.fixes for n in f.notes],
            "settings": None if chosen is None or not chosen.settings else as_json(chosen.settings),
            "evaluations": budget.evals,
            "seconds": round(budget.seconds, 1),
            "judged_on": len(held_back),
            "synthetic": held_back.synthetic,
        },
        tuple(tables),
        (
            *(n for f in attempts.fixes for n in f.notes),
            *attempts.notes,
            *_settings(chosen, final),
            *_notes(candidates, chosen, held_back),
        ),
    )


def with_repairs(report: Report, shown: Candidate, repaired: Repaired, scorer: Scorer) -> Report:
    """The report with what becomes of a candidate on CPUs without VNNI."""
    if shown.comparison is None:
        return report
    judged = {"without VNNI": shown.comparison}
    if repaired.is_changed:
        judged = {"without VNNI, before the repair": scorer.compare(repaired.before.path), **judged}
    return replace(
        report,
        data={**report.data, "saturation": repair_data(repaired, judged)},
        tables=(*report.tables, repair_table(repaired), accuracies(judged, "Simulated on AVX2")),
    )


def with_nonfinite(report: Report, found: Sequence[Note]) -> Report:
    """The report with the constants that are no numbers, named also as what may be behind a failure."""
    if not found:
        return report
    verdict = report.verdict
    if verdict.status is not Status.PASS:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        cause = f"the input model has {found[0].node}, of which {found[0].reason}{more}"
        verdict = replace(verdict, reason=f"{verdict.reason}; {cause}")
    return replace(report, verdict=verdict, notes=(*found, *report.notes))


def _row(candidate: Candidate) -> tuple[str, int, str, str]:
    return candidate.name, candidate.changes, candidate.outcome, candidate.reason


def _verdict(candidates: Sequence[Candidate], chosen: Candidate | None, goal: str, where: Deployment) -> Verdict:
    if chosen is not None and chosen.outcome in ("faster", "smaller"):
        return Verdict(Status.PASS, f"{chosen.name}: {chosen.reason}")
    reasons = "; ".join(f"{c.name}: {c.outcome}, {c.reason}" for c in candidates)
    if all(c.outcome == "unchanged" for c in candidates):
        return Verdict(Status.UNCHANGED, f"nothing to quantize: {reasons}")
    undecided = [c for c in candidates if c.outcome == "undecided"]
    if undecided and not where.is_here:
        hint = "" if chosen is not None else "; --inconclusive pass writes it"
        return Verdict(Status.INCONCLUSIVE, f"{undecided[0].name}: {undecided[0].reason}{hint}")
    if undecided:
        return Verdict(Status.INCONCLUSIVE, f"too noisy to say that the {goal}: {reasons}")
    return Verdict(Status.FAIL, f"no {goal} and within the budget, the input model is best: {reasons}")


def _settings(chosen: Candidate | None, final: Path) -> tuple[Note, ...]:
    if chosen is None or not chosen.settings:
        return ()
    where = settings_path(final).name
    reason = f"{chosen.settings}: in {where}, applied by onnxopt.load_session; plain ONNX Runtime does not look at it"
    return (Note("session", "settings", reason),)


def _notes(candidates: Sequence[Candidate], chosen: Candidate | None, held_back: Dataset) -> tuple[Note, ...]:
    shown = [chosen] if chosen is not None else candidates
    notes = [Note(f"{c.name}: {n.node}", n.verdict, n.reason) for c in shown for n in c.notes]
    return (*notes, *data_notes(held_back))
