"""``distill`` and ``finetune``: the weights of a graph trained towards a teacher, or towards labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from onnxopt.commands.common import Source, check_output, first_feeds, open_data, open_model, workspace
from onnxopt.commands.distill_report import dry_report, train_report
from onnxopt.commands.provenance import stamp
from onnxopt.core.atomic import check_writable
from onnxopt.core.check import problems
from onnxopt.core.io import save, save_scratch
from onnxopt.core.plugins import optional
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.report import JSON, Report
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.errors import DataError, UsageError, VerificationError
from onnxopt.evaluate.compare import Scorer
from onnxopt.evaluate.verify import verify
from onnxopt.passes.base import Context
from onnxopt.recover.heads import pseudo_labels, pseudo_metric
from onnxopt.recover.options import Training
from onnxopt.recover.samples import split_three
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.settings import NO_SETTINGS, read_settings, write_settings
from onnxopt.run.target import Target

if TYPE_CHECKING:
    from onnxopt.recover.distill import Course

__all__ = ["TrainOptions", "distill", "finetune"]


class TrainOptions(TypedDict, total=False):
    """What ``distill`` and ``finetune`` take by name.

    Attributes:
        recipe: How to train.
        eval_data: Data to judge by; default: a fifth of ``source``.
        metric: Name of the metric; default: the one that fits the labels, or agreement with the teachers.
        output_name: The output that labels belong to and the metric judges.
        target: Where the models run.
        time_limit: Seconds after which training ends.
        tensorboard: Folder for event files.
        keep_failing: Write the result even when it is not better.
        dry_run: Say what would be done, and do nothing.
        progress: Told of each step.
    """

    recipe: Training | None
    eval_data: str | None
    metric: str | None
    output_name: str | None
    target: Target | None
    time_limit: float | None
    tensorboard: Path | None
    keep_failing: bool
    dry_run: bool
    progress: Progress | None


def distill(
    path: Path,
    teachers: Sequence[Path],
    output: Path,
    source: Source | None = None,
    **options: Unpack[TrainOptions],
) -> Report:
    """Trains a model to answer as its teachers do, judges it on samples that nothing was fitted to, writes the better.

    Args:
        path: The student: a pruned, quantized or smaller model; it is not changed.
        teachers: Models with the same inputs and outputs; of several the mean of their answers teaches.
        output: Where the result goes.
        source: Inputs to train on, labels are optional; a part of them is held back.
        options: See ``TrainOptions``.

    Raises:
        MissingExtraError: torch is not installed.
        OnnxoptError: A model, the data or an option cannot be used, or the output cannot be written.
    """
    if not teachers:
        raise UsageError(
            "there is no teacher", where="--teacher", fix="name one, or use `onnxopt finetune` with labels"
        )
    return _train("distill", path, teachers, output, source, **options)


def finetune(path: Path, output: Path, source: Source | None = None, **options: Unpack[TrainOptions]) -> Report:
    """Trains a model on labels; arguments and errors as for ``distill``."""
    return _train("finetune", path, (), output, source, **options)


def _train(
    command: str,
    path: Path,
    teachers: Sequence[Path],
    output: Path,
    source: Source | None,
    *,
    recipe: Training | None = None,
    eval_data: str | None = None,
    metric: str | None = None,
    output_name: str | None = None,
    target: Target | None = None,
    time_limit: float | None = None,
    tensorboard: Path | None = None,
    keep_failing: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    optional("torch", "torch")
    from onnxopt.recover.distill import prepare, run

    source, target, recipe = source or Source(), target or Target(), recipe or Training()
    progress = progress or SilentProgress()
    model = open_model(path, target)
    if source.path is None:
        raise DataError("training needs data", where=f"onnxopt {command}", fix="give real inputs with --data")
    final = check_output(output, path, source.path, eval_data, source.preprocess, *teachers)
    checkpoint = check_writable(final.with_name(f"{final.name}.checkpoint"))
    data = open_data(source, path, model, target)
    judge = None
    if eval_data is not None:
        judge = open_data(Source(eval_data, source.labels, source.preprocess, None, source.seed), path, model, target)
    split = split_three(data, judge, seed=source.seed)
    with workspace() as folder:
        ctx = Context(folder, split.train, target, source.seed, progress)
        course = prepare(model, teachers, split, recipe, ctx, output=output_name)
        if dry_run:
            return dry_report(command, path, course)
        judged, chosen_metric = _judged(course, split.judged, metric, output_name)
        scorer = Scorer(
            path, judged, target, metric=chosen_metric, output=output_name, seed=source.seed, progress=progress
        )
        state = run(course, ctx, time_limit=time_limit, checkpoint=checkpoint, tensorboard=tensorboard)
        result = model.clone()
        changed = course.bridge.write(result)
        candidate = folder / "trained.onnx"
        facts: dict[str, JSON] = {"metric": scorer.metric.name, "samples": len(judged), "best_step": state.best_step}
        save_scratch(result, candidate)
        settings = read_settings(path)
        write_settings(candidate, settings)
        _check(path, candidate, first_feeds(judged), target)
        comparison = scorer.compare(candidate)
        facts |= {"before": comparison.reference_score, "after": comparison.candidate_score}
        report, is_better = train_report(command, path, candidate, course, state, comparison, scorer, judged, changed)
        if (is_better or keep_failing) and changed:
            stamp(result, path, [course.recipe], changes={course.recipe.name: changed}, verdict=facts, data=data)
            save_scratch(result, candidate)
            open_session(candidate, target)
            write_settings(final, NO_SETTINGS)
            save(result, final)
            write_settings(final, settings)
        checkpoint.unlink(missing_ok=True)
        return report


def _judged(course: Course, data: Dataset, metric: str | None, output: str | None) -> tuple[Dataset, str | None]:
    """The samples to judge by, with labels: their own, or what the teachers say; and the metric for them."""
    if data.has_labels or not course.teachers:
        return data, metric
    head = next((h for h in course.heads if output is None or h.name == output), course.heads[0])
    kept: dict[int, Sample] = {}
    read = data.read

    def labelled(index: int) -> Sample:
        if index not in kept:
            sample = read(index)
            kept[index] = Sample(sample.feeds, pseudo_labels(head, course.answer(sample.feeds)[head.name]))
        return kept[index]

    judged = Dataset(data.source, labelled, data.order, data.digest, True, data.synthetic, data.notes)
    return judged, metric or pseudo_metric(head)


def _check(path: Path, candidate: Path, feeds: Sequence[Feeds], target: Target) -> None:
    """Raises unless the trained model is valid, loads and gives finite values.

    Raises:
        VerificationError: It is not.
    """
    found = problems(candidate)
    if found and not problems(path):
        raise VerificationError(
            f"the trained model is not valid: {found[0]}", where=path.name, fix="report it as a defect of the trainer"
        )
    verify(path, candidate, feeds, target, exact=False)
