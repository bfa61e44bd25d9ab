"""What ``quantize`` says of its search: every candidate with its outcome, and the evidence for the chosen one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from onnxopt.commands.common import accuracy_table, as_json, data_notes, drift_table, latency_table, size_table
from onnxopt.core.report import Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.quantization.auto import Attempts
from onnxopt.quantization.budget import Budget
from onnxopt.quantization.search import Candidate
from onnxopt.run.settings import settings_path

__all__ = ["quantize_report"]


def quantize_report(
    path: Path,
    final: Path,
    attempts: Attempts,
    chosen: Candidate | None,
    held_back: Dataset,
    calibration: Dataset,
    budget: Budget,
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
        _verdict(candidates, chosen, attempts.goal),
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
            *_settings(chosen, final),
            *_notes(candidates, chosen, held_back),
        ),
    )


def _row(candidate: Candidate) -> tuple[str, int, str, str]:
    return candidate.name, candidate.changes, candidate.outcome, candidate.reason


def _verdict(candidates: Sequence[Candidate], chosen: Candidate | None, goal: str) -> Verdict:
    if chosen is not None and chosen.outcome in ("faster", "smaller"):
        return Verdict(Status.PASS, f"{chosen.name}: {chosen.reason}")
    reasons = "; ".join(f"{c.name}: {c.outcome}, {c.reason}" for c in candidates)
    if all(c.outcome == "unchanged" for c in candidates):
        return Verdict(Status.UNCHANGED, f"nothing to quantize: {reasons}")
    if any(c.outcome == "undecided" for c in candidates):
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
