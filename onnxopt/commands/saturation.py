"""Tables and notes about layers that saturate on x86 CPUs without VNNI."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from onnxopt.core.report import JSON, Note, Table
from onnxopt.errors import UsageError, nearest
from onnxopt.evaluate.tally import Comparison
from onnxopt.quantization.portability.audit import Audit, Risk
from onnxopt.quantization.portability.repair import Repaired
from onnxopt.run.settings import PRECISE
from onnxopt.run.target import Target, provider

__all__ = ["accuracies", "audit_data", "audit_notes", "audit_table", "check_isa", "repair_data", "repair_table"]

ISAS = ("avx2",)
COLUMNS = ("layer", "kernel", "pairs that can", "sums that did", "SQNR dB")


def check_isa(name: str, target: Target) -> None:
    """Refuses instruction sets that are not simulated.

    Raises:
        UsageError: It is one of these, or the provider is not the CPU.
    """
    if name not in ISAS:
        raise UsageError(f"the instruction set {name!r} is not simulated", where="--isa", fix=nearest(name, ISAS))
    if provider(target.provider).short != "cpu":
        raise UsageError(
            "instruction sets are those of the CPU",
            where=f"--isa {name} --provider {target.provider}",
            fix="leave --provider out",
        )


def audit_table(found: Audit) -> Table:
    """The layers that can saturate, the worst first."""
    rows = tuple((risk.weight, *_figures(risk)) for risk in sorted(found.risks, key=_badness))
    return Table(f"Layers that can saturate without VNNI ({found.samples} samples)", COLUMNS, rows)


def audit_data(found: Audit) -> dict[str, JSON]:
    """The same for machines."""
    return {
        "layers": found.layers,
        "samples": found.samples,
        "at_risk": [{"weight": risk.weight, **_data(risk)} for risk in found.risks],
    }


def audit_notes(found: Audit) -> tuple[Note, ...]:
    """What the audit comes to, and what it does not cover."""
    if not found.layers:
        text = "no layer multiplies U8 activations by S8 weights: the results do not depend on VNNI"
        return (Note("avx2", "note", text), *found.notes)
    worst = min(found.happening, key=_badness, default=None)
    text = f"{len(found.happening)} of {found.layers} integer layers saturate, {len(found.risks)} can"
    if worst is not None:
        text += f"; worst: {worst.weight}"
        remedy = f"quantize with --target avx2, or set {PRECISE}=1 in the session (slower, exact)"
        return (Note("avx2", "at risk", text), Note("avx2", "remedy", remedy), *found.notes)
    return (Note("avx2", "note", text), *found.notes)


def repair_table(found: Repaired) -> Table:
    """What was found and done layer by layer, the worst first."""
    rows = tuple(
        (
            repair.layer,
            *_figures(repair.risk),
            repair.form,
            None if repair.error is None else repair.error.exact_db,
            None if repair.error is None else repair.error.narrow_db,
        )
        for repair in sorted(found.repairs, key=lambda r: _badness(r.risk))
    )
    title = f"Layers that can saturate without VNNI ({found.before.samples} samples)"
    return Table(title, (*COLUMNS, "weights", "8 bits dB", "narrow dB"), rows)


def repair_data(found: Repaired, judged: Mapping[str, Comparison]) -> dict[str, JSON]:
    """The same for machines, with the scores of ``judged``."""
    return {
        "layers": found.before.layers,
        "samples": found.before.samples,
        "at_risk": [{"layer": r.layer, **_data(r.risk), "form": r.form} for r in found.repairs],
        "saturating_after": len(found.after.happening),
        "scores": {name: comparison.candidate_score for name, comparison in judged.items()},
    }


def accuracies(judged: Mapping[str, Comparison], title: str) -> Table:
    """Scores and SQNR of the judged output of the same model under different circumstances."""
    rows: list[tuple[str, float, float, float | None]] = []
    for name, found in judged.items():
        drift = next((d for d in found.drift if d.name == found.output), None)
        rows.append((name, found.candidate_score, found.drop, None if drift is None else drift.sqnr_db))
    metric = next(iter(judged.values())).metric
    return Table(title, ("run", metric, "drop", "SQNR dB"), tuple(rows))


def _figures(risk: Risk) -> tuple[str, str, str | None, float | None]:
    did = None if risk.saturated is None else f"{risk.saturated:.4%}"
    return risk.op_type, f"{risk.possible:.2%}", did, risk.sqnr_db


def _data(risk: Risk) -> dict[str, JSON]:
    sqnr_db = risk.sqnr_db if risk.sqnr_db is not None and isfinite(risk.sqnr_db) else None
    return {
        "kernel": risk.op_type,
        "possible": risk.possible,
        "saturated": risk.saturated,
        "sqnr_db": sqnr_db,
    }


def _badness(risk: Risk) -> float:
    return float("-inf") if risk.sqnr_db is None else risk.sqnr_db
