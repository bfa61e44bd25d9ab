"""Puts a training run together: student, teachers, outputs with their losses, samples as calls; and trains it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from onnxopt.core.io import content_hash, load, save_scratch
from onnxopt.core.query import Model, input_specs, output_specs
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.batch import batch_axes
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.errors import DataError, NothingChangedError, UsageError
from onnxopt.passes.base import Context
from onnxopt.recover.augment import image_axes, varied
from onnxopt.recover.bridge.module import Bridge
from onnxopt.recover.choices import check_labels, choose_heads, freeze, labelled_head, usual_rate
from onnxopt.recover.events import Events
from onnxopt.recover.heads import Head, combine
from onnxopt.recover.options import Training
from onnxopt.recover.samples import Call, Joining, Reader, Split, chosen, find_joining, group
from onnxopt.recover.state import State
from onnxopt.recover.teachers import Teacher, check_answers, open_teacher
from onnxopt.recover.trainer import Lesson, deterministic, train

__all__ = ["Course", "prepare", "run"]

EXAMPLES = 8
"""Samples that are looked at to choose losses."""
PAIRED = 64
"""Samples among which two of equal shapes are looked for, to find out how samples are joined."""


@dataclass(frozen=True)
class Course:
    """Everything that a run needs, with nothing trained yet.

    Attributes:
        model: The student.
        bridge: The same as a module.
        recipe: How it is trained.
        peak: The learning rate.
        heads: The outputs with a loss.
        labelled: The output that labels belong to, where they count.
        teachers: Who answers.
        split: The samples.
        joining: How samples are joined; ``None``: they run one by one.
        notes: What was decided on the way.
        device: Where torch runs.
    """

    model: Model
    bridge: Bridge
    recipe: Training
    peak: float
    heads: tuple[Head, ...]
    labelled: Head | None
    teachers: tuple[Teacher, ...]
    split: Split
    joining: Joining | None
    notes: tuple[Note, ...]
    device: str

    def answer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What the teachers together say."""
        return self.combined([teacher.answer(feeds) for teacher in self.teachers])

    def combined(self, answers: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The answers of all teachers as one."""
        if not answers:
            return {}
        by_name = {h.name: h for h in self.heads}
        found = {n: combine(h, [a[n] for a in answers if n in a], self.recipe.temperature) for n, h in by_name.items()}
        return found | {own: answers[0][own] for own, _ in self.recipe.features}


def prepare(
    model: Model,
    teachers: Sequence[Path],
    split: Split,
    recipe: Training,
    ctx: Context,
    *,
    output: str | None = None,
) -> Course:
    """A run that can begin.

    Args:
        model: The student; it is not changed.
        teachers: Files of the teachers; none: the labels alone teach.
        split: The samples.
        recipe: How to train.
        ctx: Target, folder for intermediate files, progress.
        output: The output that labels belong to; default: the first.

    Raises:
        ModelError: The graph cannot be trained, or student and teacher do not match.
        DataError: There are no labels and no teacher, or labels out of range.
        UsageError: A pattern matches nothing, or an option does not apply.
        NothingChangedError: There is nothing to train.
    """
    specs = input_specs(model), output_specs(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not teachers and not split.train.has_labels:
        raise DataError(
            "there is nothing to learn from: the data have no labels and there is no teacher",
            where=split.train.source,
            fix="add labels to the data (--labels KEY), or use `onnxopt distill` with a teacher",
        )
    if recipe.features and len(teachers) != 1:
        raise UsageError("inner values are matched with one teacher only", where="--match", fix="give one --teacher")
    if "mixup" in recipe.augment and not teachers:
        raise UsageError("mixed images have no label", where="--augment mixup", fix="leave mixup out")
    axes = image_axes(specs[0], recipe.augment)
    opened = tuple(open_teacher(path, specs, ctx.target, ctx.workdir, features=recipe.features) for path in teachers)
    recipe = replace(recipe, teachers=tuple(t.digest for t in opened))
    examples = [split.train[i] for i in range(min(EXAMPLES, len(split.train)))]
    names = [s.name for s in specs[1] if not opened or s.name in opened[0].outputs]
    primary = output or specs[1][0].name
    said = [opened[0].answer(s.feeds) for s in examples] if opened else _own_answers(model, examples)
    heads, skipped = choose_heads([primary] if not opened else names, said, recipe)
    labelled = labelled_head(primary, heads, split, bool(opened), recipe)
    if "mixup" in recipe.augment and labelled is not None:
        raise UsageError(
            "mixed images have no label", where="--augment mixup", fix="leave mixup out, or use --teacher-weight 1"
        )
    features = [own for own, _ in recipe.features]
    bridge = Bridge(model, outputs=[h.name for h in heads] + features, device=device)
    frozen = freeze(bridge, recipe.freeze)
    if not any(p.requires_grad for p in bridge.parameters()):
        raise NothingChangedError(
            "no weight is left to train", where="the graph of the student", fix="freeze less, or train another model"
        )
    first = bridge.run(examples[0].feeds)
    if opened:
        check_answers(said[0], first, opened[0].path.name)
        for teacher in opened[1:]:
            check_answers(teacher.answer(examples[0].feeds), first, teacher.path.name)
    wanted = batch_axes(specs[0]) or {s.name: 0 for s in specs[0] if s.shape is None or s.shape}
    joining = find_joining(bridge.run, wanted, [split.train[i] for i in range(min(PAIRED, len(split.train)))])
    peak = recipe.lr if recipe.lr is not None else usual_rate(model, bridge, recipe)
    notes = [*skipped, *frozen]
    if joining is None and recipe.batch > 1:
        notes.append(
            Note("batches", "single", "samples cannot be joined to one call of this graph: they run one by one")
        )
    if axes and recipe.augment:
        notes.append(Note(", ".join(axes), "varied", " and ".join(recipe.augment)))
    if labelled is not None:
        check_labels(labelled, first[labelled.name], split.train, split.watched)
    return Course(model, bridge, recipe, peak, heads, labelled, opened, split, joining, tuple(notes), device)


def run(
    course: Course,
    ctx: Context,
    *,
    time_limit: float | None = None,
    checkpoint: Path | None = None,
    tensorboard: Path | None = None,
) -> State:
    """Trains the student of a course; its bridge holds the best weights afterwards.

    Args:
        course: What is to be done.
        ctx: Target and progress.
        time_limit: Seconds after which training ends.
        checkpoint: Where the state is kept, and continued from.
        tensorboard: Folder for event files.

    Raises:
        OnnxoptError: A sample cannot be read, or a file cannot be written.
    """
    events = Events(tensorboard)
    try:
        with deterministic(ctx.target.threads, course.recipe.seed):
            return train(
                course.bridge,
                _lesson(course, ctx),
                course.recipe,
                course.peak,
                progress=ctx.progress,
                events=events,
                time_limit=time_limit,
                checkpoint=checkpoint,
                key=_key(course, ctx),
            )
    finally:
        events.close()


def _lesson(course: Course, ctx: Context) -> Lesson:
    recipe, split = course.recipe, course.split
    train_reader, watched_reader = Reader(split.train), Reader(split.watched)
    axes = image_axes(input_specs(course.model), recipe.augment)
    is_free = course.joining is not None and all(map(_takes_batches, course.teachers))
    kept = None if recipe.augment else _all_answers(course, split.train, ctx)
    seen = _all_answers(course, split.watched, ctx)

    def calls(samples: Sequence[Sample], known: Sequence[Mapping[str, Array]] | None) -> list[Call]:
        if known is not None:
            return group(samples, known, course.joining)
        if is_free:
            plain = group(samples, _no_answers(len(samples)), course.joining)
            return [replace(call, answers=course.answer(call.feeds)) for call in plain]
        return group(samples, [course.answer(s.feeds) for s in samples], course.joining)

    def step(number: int) -> list[Call]:
        indices = chosen(len(split.train), number, min(recipe.batch, len(split.train)), recipe.seed)
        samples = [train_reader[i] for i in indices]
        if recipe.augment:
            samples = varied(samples, axes, recipe.augment, np.random.default_rng([recipe.seed, 1, number]))
        return calls(samples, None if kept is None else [kept[i] for i in indices])

    def watched() -> list[Call]:
        found: list[Call] = []
        for start in range(0, len(split.watched), recipe.batch):
            indices = range(start, min(start + recipe.batch, len(split.watched)))
            part = calls([watched_reader[i] for i in indices], None if seen is None else [seen[i] for i in indices])
            found += [replace(call, share=call.share * len(indices) / len(split.watched)) for call in part]
        return found

    return Lesson(course.heads, course.labelled, bool(course.teachers), step, watched)


def _all_answers(course: Course, data: Dataset, ctx: Context) -> list[dict[str, Array]] | None:
    """The answers on all samples, where they fit in memory; without teachers there are none."""
    if not course.teachers:
        return _no_answers(len(data))
    each = [teacher.all_answers(data, ctx.progress) for teacher in course.teachers]
    found = [answers for answers in each if answers is not None]
    if len(found) < len(each):
        return None
    return [course.combined([answers[i] for answers in found]) for i in range(len(data))]


def _no_answers(count: int) -> list[dict[str, Array]]:
    return [dict[str, Array]() for _ in range(count)]


def _takes_batches(teacher: Teacher) -> bool:
    return bool(batch_axes(input_specs(load(teacher.path))))


def _own_answers(model: Model, samples: Sequence[Sample]) -> list[dict[str, Array]]:
    bridge = Bridge(model, train=False, promote=False)
    return [bridge.run(s.feeds) for s in samples]


def _key(course: Course, ctx: Context) -> str:
    """What a run depends on, to the last bit."""
    path = ctx.workdir / "student.onnx"
    save_scratch(course.model, path)
    parts = [
        content_hash(path),
        asdict(course.recipe),
        course.peak,
        course.split.train.fingerprint(),
        course.split.watched.fingerprint(),
        asdict(ctx.target),
        torch.__version__,
        course.device,
        [h.name for h in course.heads],
        None if course.labelled is None else course.labelled.name,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
