"""What ``export`` says: every call that was compared, the signature, and which exporter it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from onnxopt.core.query import Model, nodes, opset, output_specs
from onnxopt.core.report import Note, Report, Table, Verdict
from onnxopt.frameworks.base import Exporter, Original
from onnxopt.frameworks.parity import Row

__all__ = ["Attempt", "export_report"]

LOOPS = ("Loop", "Scan")


@dataclass(frozen=True)
class Attempt:
    """What one exporter made: ``model`` is ``None`` where it failed, ``rows`` are empty where it could not be run."""

    exporter: Exporter
    raw: Path
    path: Path
    model: Model | None = None
    rows: tuple[Row, ...] = ()
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it computes what the framework does."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def has_loops(self) -> bool:
        """Whether a part of it runs step by step: another exporter may know the operator for it."""
        return self.model is not None and any(node.op_type in LOOPS for node in nodes(self.model))


def export_report(
    verdict: Verdict,
    original: Original,
    weights: str,
    attempts: Sequence[Attempt],
    best: Attempt,
    notes: tuple[Note, ...],
    *,
    written: bool,
) -> Report:
    """The report of an export.

    Args:
        verdict: What it came to.
        original: The model of the framework.
        weights: What its ``fingerprint`` gives.
        attempts: What each exporter made.
        best: The one that counts.
        notes: What was found on the way.
        written: Whether there is a file.
    """
    rows = tuple(
        (
            attempt.exporter.name,
            row.case,
            row.output,
            row.max_abs,
            row.max_rel,
            row.tolerance,
            _said(row),
        )
        for attempt in attempts
        for row in attempt.rows
    )
    columns = ("exporter", "call", "output", "max abs", "max relative", "tolerance", "verdict")
    tables = [Table(f"{original.framework} against ONNX Runtime", columns, rows)]
    model = best.model
    if model is not None:
        signature = [("input", str(spec)) for spec in original.inputs] + [
            ("output", str(spec)) for spec in output_specs(model)
        ]
        tables.append(Table("Signature", ("kind", "name and shape"), tuple(signature)))
    return Report(
        "export",
        verdict,
        {
            "framework": original.framework,
            "versions": dict(original.versions),
            "weights_sha256": weights,
            "exporter": best.exporter.name,
            "opset": None if model is None else opset(model),
            "parity": [{"exporter": a.exporter.name, **asdict(row)} for a in attempts for row in a.rows],
            "failed": {a.exporter.name: a.failure for a in attempts if a.failure},
            "written": written,
        },
        tuple(tables),
        notes,
    )


def _said(row: Row) -> str:
    if not row.passed:
        return row.reason or "differs"
    return f"same, {row.undecided} samples that rounding decides aside" if row.undecided else "same"
