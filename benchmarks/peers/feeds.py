"""Calibration data as the zoo has them: each row of an `.npz`, or each file of a folder as one call; labels left out.

    python -m benchmarks.peers.feeds SOURCE OUT        # at most CAP samples of SOURCE, labels included

Imports numpy only, so that it works in every peer's environment.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray[Any, Any]]

CAP = 128
"""Samples that any method is given."""
LABELS = "labels"


class Batches:
    """A `CalibrationDataReader`, which several peers share; mutable because that interface is an iterator."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._feeds = read(data)

    def get_next(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Return the feeds of the next call, or `None` at the end."""
        return next(self._feeds, None)

    def get_first(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return the feeds of the first call without moving on."""
        return next(read(self._data))

    def rewind(self) -> None:
        """Start again."""
        self._feeds = read(self._data)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        return read(self._data)

    def __len__(self) -> int:
        return sum(1 for _ in read(self._data))


def read(data: Path) -> Iterator[Feeds]:
    """Yield the feeds of each call."""
    for path in sorted(data.iterdir()) if data.is_dir() else [data]:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files if name != LABELS}
        if data.is_dir():
            yield arrays
            continue
        for row in range(len(next(iter(arrays.values())))):
            yield {name: array[row : row + 1] for name, array in arrays.items()}


def cap(source: Path, output: Path) -> None:
    """Write the first `CAP` rows of a file, or files of a folder, to `output`."""
    if source.is_dir():
        output.mkdir()
        for path in sorted(source.iterdir())[:CAP]:
            shutil.copyfile(path, output / path.name)
        return
    with np.load(source) as archive:
        np.savez(output, **{name: archive[name][:CAP] for name in archive.files})


if __name__ == "__main__":
    cap(*map(Path, sys.argv[1:]))
