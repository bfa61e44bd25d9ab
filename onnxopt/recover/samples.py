"""Samples of a training run: which belong to a step, and how those of a step become few calls.

Every choice follows from the seed and the number of the step alone, so that a run that was killed goes on as if it had
not been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset, Sample
from onnxopt.errors import DataError

__all__ = [
    "LEAST_TRAINED",
    "Call",
    "Joining",
    "Reader",
    "Split",
    "chosen",
    "find_joining",
    "group",
    "split_three",
]

LEAST_TRAINED = 2
"""To train on and to choose the best step by, where others judge."""
MOST_BYTES = 512 << 20
"""Samples that are held in memory; the rest is read again when its turn comes."""
CLOSE = 0.02
"""Difference, relative to the largest value, at which two answers are the same: codes may round the other way."""


@dataclass(frozen=True)
class Split:
    """Three disjoint parts of the data (the same samples where there are too few).

    Attributes:
        train: What is trained on.
        watched: What chooses the best step.
        judged: What decides, and nothing was fitted to.
    """

    train: Dataset
    watched: Dataset
    judged: Dataset


def split_three(data: Dataset, judged: Dataset | None, *, seed: int) -> Split:
    """A fifth to judge by unless ``judged`` is given, a tenth to watch, the rest to train on.

    Raises:
        DataError: There are too few samples.
    """
    count = len(data)
    if count < (LEAST_TRAINED if judged is not None else 2 * LEAST_TRAINED):
        raise DataError(
            f"{count} samples are too few to train on some and judge by others",
            where=data.source,
            fix="give at least a few dozen samples",
        )
    order = [int(i) for i in np.random.default_rng(seed).permutation(count)]
    last = 0 if judged is not None else min(512, max(1, count // 5))
    watched = min(256, max(1, count // 10))
    parts = order[:last], order[last : last + watched], order[last + watched :]
    own = data.take(sorted(parts[0]))
    return Split(data.take(sorted(parts[2])), data.take(sorted(parts[1])), own if judged is None else judged)


@dataclass(frozen=True)
class Reader:
    """Reads samples, each once as long as they fit into memory. ``kept`` and ``held`` fill up as they are read."""

    data: Dataset
    kept: dict[int, Sample] = field(default_factory=dict[int, Sample], repr=False)
    held: list[int] = field(default_factory=lambda: [0], repr=False)

    def __getitem__(self, index: int) -> Sample:
        if index in self.kept:
            return self.kept[index]
        sample = self.data[index]
        size = sum(a.nbytes for a in sample.feeds.values())
        if self.held[0] + size <= MOST_BYTES:
            self.held[0] += size
            self.kept[index] = sample
        return sample


def chosen(count: int, step: int, batch: int, seed: int) -> list[int]:
    """The samples of a step: a new order of all of them in each epoch, cut into batches one after the other."""
    places = range(step * batch, (step + 1) * batch)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {p // count for p in places}}
    return [int(orders[p // count][p % count]) for p in places]


@dataclass(frozen=True)
class Joining:
    """Along which axes samples can be joined to one call: found out by trying, not by names.

    Attributes:
        inputs: Input -> axis; an input that is missing is the same in all samples.
        outputs: Output -> axis.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class Call:
    """What one run of the student takes.

    Attributes:
        feeds: The inputs.
        answers: What the outputs should be, by name.
        labels: The labels, where there are any.
        share: The share of the step that it is.
    """

    feeds: Mapping[str, Array]
    answers: Mapping[str, Array]
    labels: Array | None
    share: float


def group(samples: Sequence[Sample], answers: Sequence[Mapping[str, Array]], joining: Joining | None) -> list[Call]:
    """The samples as calls: those of equal shapes joined where that can be done, else one by one."""
    total = len(samples)
    if joining is None:
        return [Call(s.feeds, a, s.labels, 1 / total) for s, a in zip(samples, answers, strict=True)]
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        kinds.setdefault(_kind(sample, answer, joining), []).append(index)
    calls: list[Call] = []
    for members in kinds.values():
        feeds = {
            name: _join([samples[i].feeds[name] for i in members], joining.inputs.get(name))
            for name in samples[members[0]].feeds
        }
        joined = {
            name: _join([answers[i][name] for i in members], joining.outputs.get(name, 0))
            for name in answers[members[0]]
        }
        labels = [samples[i].labels for i in members]
        known = [np.atleast_1d(label) for label in labels if label is not None]
        calls.append(Call(feeds, joined, np.concatenate(known) if known else None, len(members) / total))
    return calls


def find_joining(
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]], axes: Mapping[str, int], samples: Sequence[Sample]
) -> Joining | None:
    """How samples can be joined, if what the model says of two together is what it says of each.

    Args:
        run: The outputs of the student.
        axes: Input -> axis along which to join.
        samples: Some samples.
    """
    pair = next(
        ((a, b) for i, a in enumerate(samples) for b in samples[i + 1 :] if _shapes(a, axes) == _shapes(b, axes)), None
    )
    if pair is None or not axes:
        return None
    feeds = {name: _join([s.feeds[name] for s in pair], axes.get(name)) for name in pair[0].feeds}
    try:
        apart, together = [run(s.feeds) for s in pair], run(feeds)
    except Exception:  # a model that does not take two at once may fail in any way
        return None
    outputs: dict[str, int] = {}
    for name, whole in together.items():
        parts = [a[name] for a in apart]
        axis = next((k for k in range(whole.ndim) if _is_joined(whole, parts, k)), None)
        if axis is None:
            return None
        outputs[name] = axis
    return Joining(dict(axes), outputs)


def _is_joined(whole: Array, parts: Sequence[Array], axis: int) -> bool:
    if any(p.ndim != whole.ndim for p in parts) or sum(p.shape[axis] for p in parts) != whole.shape[axis]:
        return False
    expected = np.concatenate(parts, axis)
    if expected.shape != whole.shape:
        return False
    size = float(np.abs(expected).max(initial=0))
    return bool(np.allclose(whole, expected, rtol=0, atol=CLOSE * size + 1e-6, equal_nan=True))


def _shapes(sample: Sample, axes: Mapping[str, int]) -> tuple[object, ...]:
    """What must be equal in samples that are joined; of inputs that are shared, their values."""
    return tuple(
        (name, tuple(n for i, n in enumerate(array.shape) if i != axes[name]))
        if name in axes
        else (name, array.tobytes())
        for name, array in sorted(sample.feeds.items())
    )


def _kind(sample: Sample, answers: Mapping[str, Array], joining: Joining) -> tuple[object, ...]:
    shapes = tuple(
        (name, tuple(n for i, n in enumerate(a.shape) if i != joining.outputs.get(name, 0)))
        for name, a in sorted(answers.items())
    )
    labels = None if sample.labels is None else np.atleast_1d(sample.labels).shape[1:]
    return (*_shapes(sample, joining.inputs), shapes, labels)


def _join(arrays: Sequence[Array], axis: int | None) -> Array:
    return arrays[0] if axis is None or len(arrays) == 1 else np.concatenate(arrays, axis)
