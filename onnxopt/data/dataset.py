"""A re-iterable stream of samples that fit a model, with a content fingerprint.

A sample is one call of the model: a mapping of input name to array, batch axis included, and optionally the labels of
that call. Nothing holds more than one sample (or one source file) in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Dataset", "Sample", "evenly", "split"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """The feeds of one model call and the labels that belong to it.

    Attributes:
        feeds: Input name -> array, as the model takes it.
        labels: Array whose first axis is that of the output's first axis, or ``None``.
    """

    feeds: Mapping[str, Array]
    labels: Array | None = None


@dataclass(frozen=True)
class Dataset:
    """Samples that can be read again and again, one at a time.

    Attributes:
        source: What the user gave, for messages (no machine-specific prefix).
        read: Reads sample ``i`` of the source, checked against the model's inputs.
        order: Which samples of the source belong to this dataset, in order.
        digest: Hex SHA-256 over the content of the source and how it is preprocessed.
        has_labels: Whether each sample carries labels.
        synthetic: Whether the values are made up from the input shapes rather than given by the user.
        notes: What was left out or decided when the source was opened, for the report.
    """

    source: str
    read: Callable[[int], Sample]
    order: tuple[int, ...]
    digest: str
    has_labels: bool
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Sample]:
        return (self.read(i) for i in self.order)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.order[index])

    def fingerprint(self) -> str:
        """Hex digest of content and selection: equal data in equal order give equal fingerprints."""
        import hashlib

        return hashlib.sha256(f"{self.digest}:{','.join(map(str, self.order))}".encode()).hexdigest()

    def take(self, indices: Sequence[int]) -> Dataset:
        """The samples at ``indices`` of this dataset."""
        return replace(self, order=tuple(self.order[i] for i in indices))


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, most).round()]


def split(dataset: Dataset, *, calibration: int, seed: int, most: float = 0.5) -> tuple[Dataset, Dataset]:
    """Two disjoint parts: up to ``calibration`` samples (at most the share ``most``) to fit on, the rest to judge by.

    With a single sample both parts are that sample.
    """
    count = len(dataset)
    if count < 2:
        return dataset, dataset
    shuffled = np.random.default_rng(seed).permutation(count)
    cut = max(min(calibration, int(count * most)), 1)
    return dataset.take(sorted(shuffled[:cut])), dataset.take(sorted(shuffled[cut:]))
