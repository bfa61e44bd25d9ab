"""What ``distill`` and ``finetune`` say: what was trained, how the losses fell, and whether the result is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from onnxopt.commands.common import accuracy_table, as_json, data_notes, drift_table, size_table
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.evaluate.metrics import RowMetric
from onnxopt.evaluate.rows import Rows
from onnxopt.evaluate.tally import ROUNDING

if TYPE_CHECKING:
    from onnxopt.recover.distill import Course
    from onnxopt.recover.state import State

__all__ = ["dry_report", "train_report"]

FIXED = "the graph is the same but for its weights, and so is its speed: latency was not measured"


def dry_report(command: str, path: Path, course: Course) -> Report:
    """What would be done, with nothing done."""
    count = sum(w.parameter.numel() for w in course.bridge.weights if w.parameter.requires_grad)
    reason = f"{path.name}: would train {count:,} numbers on {len(course.split.train)} samples; nothing is trained"
    tables = (*_plan(course), _recipe_table(course))
    return Report(command, Verdict(Status.PASS, reason), _facts(course), tables, course.notes)


def train_report(
    command: str,
    path: Path,
    candidate: Path,
    course: Course,
    state: State,
    comparison: Comparison,
    scorer: Scorer,
    judged: Dataset,
    changed: int,
) -> tuple[Report, bool]:
    """The report of a run, and whether its result is better than the student was.

    Args:
        command: Name of the command.
        path: The student before training.
        candidate: The student after it.
        course: What was to be done.
        state: How training ended.
        comparison: Of the student after training with the student before.
        scorer: What made it.
        judged: The samples that it was made on.
        changed: Constants of the graph that changed.
    """
    teacher = _teacher_score(course, scorer, judged)
    verdict = _verdict(course, state, comparison, teacher, changed)
    tables = [accuracy_table(comparison, "Before training and after, on samples that nothing was fitted to")]
    if teacher is not None:
        tables.append(Table("Teachers", ("metric", "score"), ((comparison.metric, teacher),)))
    tables += [
        drift_table(comparison),
        *_plan(course),
        Table("Losses", ("step", "training", "held back", "learning rate"), _losses(state)),
        size_table({"input": path, "output": candidate}),
    ]
    data: dict[str, JSON] = {
        **_facts(course),
        "comparison": as_json(comparison),
        "teacher_score": teacher,
        "losses": [list(row) for row in state.history],
        "first_loss": state.first_loss,
        "best_loss": state.best_loss,
        "best_step": state.best_step,
        "steps": state.step,
        "stopped": state.stopped or None,
        "seconds": round(state.seconds, 1),
        "changed": changed,
    }
    notes = [*course.notes, Note("latency", "not measured", FIXED), *data_notes(judged)]
    if state.stopped:
        notes.insert(
            0, Note("training", "stopped", f"{state.stopped}; the weights are those of step {state.best_step}")
        )
    return Report(command, verdict, data, tuple(tables), tuple(notes)), verdict.status is Status.PASS


def _verdict(course: Course, state: State, found: Comparison, teacher: float | None, changed: int) -> Verdict:
    against = "labels" if course.split.judged.has_labels or not course.teachers else "the teachers' answers"
    scores = f"{found.metric} against {against} {found.reference_score:.4g} -> {found.candidate_score:.4g}"
    if teacher is not None:
        scores += f", teachers {teacher:.4g}"
    losses = f"held-back loss {state.first_loss:.4g} -> {state.best_loss:.4g} at step {state.best_step}"
    broken = f"; {state.stopped}" if "loss" in state.stopped and "nan" in state.stopped.lower() else ""
    if not changed or not state.best_step:
        return Verdict(Status.FAIL, f"training found nothing better: {losses}{broken}; nothing is written")
    if found.drop > ROUNDING:
        return Verdict(Status.FAIL, f"not better than before training: {scores} on {found.samples} samples; {losses}")
    if found.drop >= -ROUNDING:
        return Verdict(Status.PASS, f"{scores} (the same on {found.samples} samples); {losses}{broken}")
    sure = found.drop_bound is not None and found.drop_bound < 0 and math.isfinite(found.drop_bound)
    bound = f", with 95 % confidence at least {-found.drop_bound:.4g} better" if sure and found.drop_bound else ""
    return Verdict(Status.PASS, f"{scores} on {found.samples} samples{bound}; {losses}{broken}")


def _teacher_score(course: Course, scorer: Scorer, judged: Dataset) -> float | None:
    """The teachers' own score against the labels; ``None`` where there are no labels but theirs."""
    metric = scorer.metric
    if not course.teachers or not course.split.judged.has_labels or not isinstance(metric, RowMetric):
        return None
    total: Rows | None = None
    for sample in judged:
        answers = course.answer(sample.feeds)
        if scorer.output not in answers or sample.labels is None:
            return None
        rows = metric.rows(answers[scorer.output], sample.labels).sum(axis=0)
        total = rows if total is None or total.shape != rows.shape else total + rows
    return None if total is None else float(metric.score(total))


def _plan(course: Course) -> Sequence[Table]:
    taught = [(h.name, str(h) if course.teachers else "labels") for h in course.heads]
    weights = course.bridge.weights
    free = [w for w in weights if w.parameter.requires_grad]
    rows = (
        ("trained", len(free), sum(w.parameter.numel() for w in free)),
        ("of them on a grid of codes", *_count([w.parameter.numel() for w in free if w.grid is not None])),
        ("frozen", *_count([w.parameter.numel() for w in weights if not w.parameter.requires_grad])),
    )
    return (
        Table("Outputs that are taught", ("output", "loss"), tuple(taught)),
        Table("Weights", ("kind", "constants", "numbers"), rows),
    )


def _count(sizes: Sequence[int]) -> tuple[int, int]:
    return len(sizes), sum(sizes)


def _recipe_table(course: Course) -> Table:
    options = cast("dict[str, object]", {**asdict(course.recipe), "lr": course.peak, "device": course.device})
    rows = tuple((name, str(value).strip("()")) for name, value in options.items())
    return Table("Recipe", ("option", "value"), rows)


def _losses(state: State) -> tuple[tuple[int, float | None, float, float | None], ...]:
    return ((0, None, state.first_loss, None), *((s, t, h, r) for s, t, h, r in state.history))


def _facts(course: Course) -> dict[str, JSON]:
    split = course.split
    return {
        "recipe": {**cast("dict[str, JSON]", as_json(course.recipe)), "lr": course.peak},
        "outputs": {h.name: str(h) if course.teachers else "labels" for h in course.heads},
        "trained": [w.name for w in course.bridge.weights if w.parameter.requires_grad],
        "samples": {"train": len(split.train), "watched": len(split.watched), "judged": len(split.judged)},
        "labels_used": course.labelled is not None,
        "joined": course.joining is not None,
        "device": course.device,
    }
