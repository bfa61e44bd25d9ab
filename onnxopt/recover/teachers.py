"""Teachers: ONNX models run by ONNX Runtime, whose answers are kept on disk for the next run on the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnxopt.core.cache import read_arrays, user_folder, write_arrays
from onnxopt.core.io import content_hash, load, save_scratch
from onnxopt.core.progress import Progress
from onnxopt.core.query import TensorSpec, input_specs, output_specs
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, ModelError, UsageError, nearest
from onnxopt.evaluate.outputs import as_array
from onnxopt.measurement.env import relevant_isa
from onnxopt.run.nested import expose
from onnxopt.run.session import Feeds, Session, open_session
from onnxopt.run.target import Target

__all__ = ["Teacher", "check_answers", "open_teacher"]

VERSION = 1
KIND = "answers"
MOST_BYTES = 512 << 20
"""Answers that are held in memory and kept on disk; beyond that the teacher is run again when it is asked."""


@dataclass(frozen=True)
class Teacher:
    """A model that answers for the student.

    Attributes:
        path: Its file.
        session: Runs it.
        inputs: Its inputs -> inputs of the student.
        outputs: Outputs of the student, and values of the student that are matched -> values of the teacher.
        digest: Of all files of the model.
        target: Where it runs.
    """

    path: Path
    session: Session
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    digest: str
    target: Target

    def answer(self, feeds: Feeds) -> dict[str, Array]:
        """The answers on the inputs of the student, by the names of the student."""
        given = {own: feeds[theirs] for own, theirs in self.inputs.items()}
        found = self.session.run(given, list(self.outputs.values()))
        return {name: as_array(found[own], own) for name, own in self.outputs.items()}

    def all_answers(self, data: Dataset, progress: Progress) -> list[dict[str, Array]] | None:
        """The answers on all samples, read from the cache where they are there; ``None``: more than fit in memory."""
        key = self._key(data)
        for folder in user_folder(KIND):
            stored = read_arrays(folder, key)
            if stored is not None and len(stored) == len(self.outputs) * len(data):
                return [{n: stored[f"{i}/{n}"] for n in self.outputs} for i in range(len(data))]
        found: list[dict[str, Array]] = []
        size = 0
        with progress.task(f"answers of {self.path.name}", len(data)) as advance:
            for sample in data:
                found.append(self.answer(sample.feeds))
                size += sum(a.nbytes for a in found[-1].values())
                if size > MOST_BYTES:
                    return None
                advance(1)
        for folder in user_folder(KIND):
            write_arrays(folder, key, {f"{i}/{n}": a for i, answers in enumerate(found) for n, a in answers.items()})
        return found

    def _key(self, data: Dataset) -> str:
        parts = [
            VERSION,
            self.digest,
            data.fingerprint(),
            dict(self.inputs),
            dict(self.outputs),
            asdict(self.target),
            ort.__version__,
            list(relevant_isa()),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def open_teacher(
    path: Path,
    student: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
    target: Target,
    workdir: Path,
    *,
    features: Sequence[tuple[str, str]] = (),
) -> Teacher:
    """The teacher at ``path``, its inputs and outputs matched with those of the student: by name, else by place.

    Args:
        path: The model file; it is not changed.
        student: Inputs and outputs of the student.
        target: Where it runs.
        workdir: Folder for a copy that hands out inner values.
        features: Pairs of values of student and teacher.

    Raises:
        ModelError: The teacher cannot be loaded, or its inputs or outputs are not those of the student.
        UsageError: It has no value of such a name.
    """
    model = load(path)
    session = open_session(path, target)
    inputs = _matched("input", path, input_specs(model), student[0])
    outputs = _matched("output", path, output_specs(model), student[1])
    taught = {theirs: own for own, theirs in outputs.items()}
    if features:
        infer_shapes(model)
        exposed = expose(model, [own for _, own in features])
        for theirs, own in features:
            if own not in exposed:
                known = [v.name or "" for node in model.graph for v in node.outputs]
                raise UsageError(
                    f"the teacher has no value {own!r} that can be matched",
                    where=f"--match, {path.name}",
                    fix=nearest(own, known),
                )
            taught[f"{theirs}"] = exposed[own]
        copy = workdir / "teacher.onnx"
        save_scratch(model, copy)
        session = open_session(copy, target)
    return Teacher(path, session, inputs, taught, content_hash(path), target)


def _matched(kind: str, path: Path, own: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> dict[str, str]:
    """Names of the teacher -> names of the student.

    Raises:
        ModelError: They do not match.
    """
    names = {s.name for s in theirs}
    pairs = [(t, next(s for s in theirs if s.name == t.name)) for t in own if t.name in names]
    complete = len(pairs) == len(own) if kind == "input" else bool(pairs) and len(pairs) == len(theirs)
    if not complete and len(own) == len(theirs):
        pairs = list(zip(own, theirs, strict=True))
        complete = True
    if not complete and kind == "output" and pairs:  # the student may have heads that nobody teaches
        complete = True
    if not complete:
        raise ModelError(
            f"the {kind}s of the teacher are not those of the student: "
            f"{', '.join(map(str, own))} against {', '.join(map(str, theirs))}",
            where=path.name,
            fix=f"give a teacher with the same {kind}s",
        )
    for teacher, student in pairs:
        if teacher.dtype != student.dtype or not _fits(teacher.shape, student.shape):
            raise ModelError(
                f"{kind} {str(teacher)!r} of the teacher does not match {str(student)!r} of the student",
                where=path.name,
                fix=f"give a teacher whose {kind}s have the same types and sizes",
            )
    return {teacher.name: student.name for teacher, student in pairs}


def _fits(a: Sequence[int | str | None] | None, b: Sequence[int | str | None] | None) -> bool:
    if a is None or b is None:
        return True
    sizes = list(zip(a, b, strict=False))[1:]  # the first axis may be a fixed batch in one of them
    return len(a) == len(b) and all(x == y for x, y in sizes if isinstance(x, int) and isinstance(y, int))


def check_answers(answers: Mapping[str, Array], found: Mapping[str, Array], teacher: str) -> None:
    """Nothing, if the answers of a teacher have the shapes of what the student says.

    Raises:
        DataError: They do not.
    """
    for name, array in found.items():
        if name in answers and answers[name].shape != np.shape(array):
            raise DataError(
                f"the teacher answers {list(answers[name].shape)} where the student says {list(np.shape(array))}",
                where=f"output {name!r}, {teacher}",
                fix="give a teacher of the same classes and resolution, or match other values",
            )
