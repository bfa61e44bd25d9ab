"""The file that ``prune`` writes: only when the result passes, or when the user takes it all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.commands.provenance import stamp
from onnxopt.core.io import save, save_scratch
from onnxopt.core.query import Model
from onnxopt.core.report import JSON, Report
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.tally import Comparison
from onnxopt.passes.base import Step
from onnxopt.run.session import open_session
from onnxopt.run.settings import NO_SETTINGS, write_settings
from onnxopt.run.target import Target

__all__ = ["Made", "Writing"]


@dataclass(frozen=True, eq=False)
class Made:
    """A pruned model with its report.

    Attributes:
        report: What was done, and the verdict.
        recipe: What was done.
        changes: Number of things that went.
        comparison: Accuracy.
        model: The model.
        path: Its file in the workspace.
    """

    report: Report
    recipe: Sequence[Step]
    changes: Mapping[str, int]
    comparison: Comparison
    model: Model
    path: Path


@dataclass(frozen=True, eq=False)
class Writing:
    """What decides about the file.

    Attributes:
        source: The input model.
        final: Where the result goes.
        target: Where it is to run.
        max_drop: The budget.
        keep_failing: Write it even when it fails.
        accept_inconclusive: Write it when the measurement was too noisy.
    """

    source: Path
    final: Path
    target: Target
    max_drop: float | None
    keep_failing: bool
    accept_inconclusive: bool

    def write(self, made: Made, fitted: Dataset) -> bool:
        """Writes the model unless it fails; whether it was written."""
        code = made.report.verdict.status.exit_code
        if not (code == 0 or (code == 5 and self.accept_inconclusive) or self.keep_failing):
            return False
        facts: dict[str, JSON] = {
            "max_drop": self.max_drop,
            "metric": made.comparison.metric,
            "reference_score": made.comparison.reference_score,
            "candidate_score": made.comparison.candidate_score,
            "samples": made.comparison.samples,
        }
        stamp(made.model, self.source, made.recipe, changes=made.changes, verdict=facts, data=fitted)
        save_scratch(made.model, made.path)
        open_session(made.path, self.target)
        write_settings(self.final, NO_SETTINGS)
        save(made.model, self.final)
        return True
