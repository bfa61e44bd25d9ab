"""Stacked arrays (``.npz``, ``.npy``) and folders of ``.npz`` files.

How the samples lie in a stacked array depends on its rank. As many axes as the input: the first axis is the input's
batch axis, and each sample takes one row of it (as many as the model's batch size, where that is fixed). One axis more:
each entry is a whole call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.data import archive
from onnxopt.data.archive import Header
from onnxopt.data.check import Shape, fit, require_dtype, require_labels, require_names, require_shape, shape_text
from onnxopt.data.content import Digest, Source, natural_key
from onnxopt.data.dataset import Array, Sample
from onnxopt.errors import DataError, nearest

__all__ = ["open_npy", "open_npz", "open_npz_folder"]


def open_npz(path: Path, specs: Sequence[TensorSpec], labels: str) -> Source:
    """The samples of one ``.npz`` file: one array per input, and an optional one named ``labels``.

    Raises:
        DataError: The arrays do not fit the inputs, or not each other.
    """
    headers = archive.headers(path)
    key = _labels_key(headers, specs, labels, str(path))
    digest = Digest("npz")
    archive.digest(path, digest)
    return _stacked(path, headers, specs, key, digest.hex(), {})


def open_npy(path: Path, specs: Sequence[TensorSpec]) -> Source:
    """The samples of one ``.npy`` file, for a model with one input.

    Raises:
        DataError: The model has more inputs, or the array does not fit.
    """
    if len(specs) != 1:
        names = ", ".join(repr(spec.name) for spec in specs)
        raise DataError(
            f"one .npy array cannot feed {len(specs)} inputs ({names})",
            where=str(path),
            fix="store one array per input in an .npz file: numpy.savez(path, name=array, ...)",
        )
    array = archive.load_npy(path)
    digest = Digest("npy")
    digest.file(path)
    headers = {specs[0].name: Header(array.shape, array.dtype)}
    return _stacked(path, headers, specs, None, digest.hex(), {specs[0].name: array})


def open_npz_folder(folder: Path, specs: Sequence[TensorSpec], labels: str) -> Source:
    """The samples of a folder of ``.npz`` files in natural order of their names, each one sample or one batch.

    Raises:
        DataError: The arrays of a file do not fit the inputs, or some files have labels and some have none.
    """
    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() == ".npz"), key=lambda p: natural_key(p.name))
    digest, labelled = Digest("npz folder"), list[Path]()
    for path in paths:
        headers = archive.headers(path)
        key = _labels_key(headers, specs, labels, str(path))
        require_names((name for name in headers if name != key), specs, str(path))
        for spec in specs:
            header = headers[spec.name]
            require_dtype(header.dtype, spec, str(path))
            require_shape(_with_batch(header.shape, spec), spec.shape, spec.name, str(path))
        if key is not None:
            labelled.append(path)
            require_labels(headers[key].shape, [_with_batch(headers[s.name].shape, s) for s in specs], str(path))
        archive.digest(path, digest)
    if labelled and len(labelled) != len(paths):
        bare = next(path for path in paths if path not in labelled)
        raise DataError(
            f"{len(labelled)} of {len(paths)} files have labels, the others have none",
            where=str(bare),
            fix=f"add the array {labels!r} to every file, or to none",
        )
    files = _Files(tuple(paths), tuple(specs), labels if labelled else None)
    return Source(len(paths), files.read, digest.hex(), bool(labelled))


@dataclass(frozen=True)
class _Stacked:
    """Reads samples of stacked arrays; ``arrays`` fills up as they are first asked for, so that each is read once."""

    path: Path
    specs: tuple[TensorSpec, ...]
    rows: Mapping[str, int | None]
    labels: str | None
    label_rows: int | None
    arrays: dict[str, Array] = field(repr=False)

    def read(self, index: int) -> Sample:
        names = [*self.rows] if self.labels is None else [*self.rows, self.labels]
        absent = [name for name in names if name not in self.arrays]
        if absent:
            self.arrays.update(archive.load(self.path, absent))
        feeds = {name: _entry(self.arrays[name], index, rows) for name, rows in self.rows.items()}
        labels = None if self.labels is None else _entry(self.arrays[self.labels], index, self.label_rows)
        return Sample(fit(feeds, self.specs, f"{self.path}, sample {index}"), labels)


@dataclass(frozen=True)
class _Files:
    """Reads one file of a folder a sample."""

    paths: tuple[Path, ...]
    specs: tuple[TensorSpec, ...]
    labels: str | None

    def read(self, index: int) -> Sample:
        path, names = self.paths[index], [spec.name for spec in self.specs]
        arrays = archive.load(path, names if self.labels is None else [*names, self.labels])
        feeds = {s.name: arrays[s.name].reshape(_with_batch(arrays[s.name].shape, s)) for s in self.specs}
        labels = None if self.labels is None else np.atleast_1d(arrays[self.labels])
        return Sample(fit(feeds, self.specs, f"{path}, sample {index}"), labels)


def _stacked(
    path: Path,
    headers: Mapping[str, Header],
    specs: Sequence[TensorSpec],
    labels: str | None,
    digest: str,
    arrays: dict[str, Array],
) -> Source:
    where = str(path)
    require_names((name for name in headers if name != labels), specs, where)
    rows: dict[str, int | None] = {}
    for spec in specs:
        require_dtype(headers[spec.name].dtype, spec, where)
        rows[spec.name] = _rows_per_call(headers[spec.name].shape, spec, where)
    calls = {name: headers[name].shape[0] // (step or 1) for name, step in rows.items()}
    sizes = {name: headers[name].shape[0] for name in rows}
    count = min(calls.values())
    if len(set(calls.values())) > 1 or len({size for name, size in sizes.items() if rows[name] == 1}) > 1:
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise DataError(
            f"the arrays hold different numbers of samples ({found})",
            where=where,
            fix="give each input as many samples",
        )
    step = next((step for step in rows.values() if step is not None), None)
    label_rows = None
    if labels is not None:
        total = next((sizes[name] for name in rows if rows[name] == step), count)
        label_rows = _label_rows(headers[labels].shape, total, step, f"{where}, array {labels!r}")
    rest = next((sizes[n] - count * s for n, s in rows.items() if s is not None and sizes[n] > count * s), 0)
    notes = (f"{rest} samples left out: they do not fill a batch of {step}",) if rest else ()
    reader = _Stacked(path, tuple(specs), rows, labels, label_rows, arrays)
    return Source(count, reader.read, digest, labels is not None, notes)


def _rows_per_call(found: tuple[int, ...], spec: TensorSpec, where: str) -> int | None:
    """Rows of a stacked array that one call takes, or ``None`` where each entry is a whole call."""
    if spec.shape is not None and (not spec.shape or len(found) == len(spec.shape) + 1):
        require_shape(found, ("samples", *spec.shape), spec.name, where)
        return None
    batch = spec.shape[0] if spec.shape else None
    step = batch if isinstance(batch, int) and batch > 0 else 1
    expected: Shape = ("N", *spec.shape[1:]) if spec.shape else ("N",) * max(1, len(found))
    require_shape(found, expected, spec.name, where)
    if found[0] < step:
        raise DataError(
            f"input {spec.name!r}: {found[0]} samples do not fill one batch of {step}, which the model fixes",
            where=where,
            fix=f"give {step} samples or more, or export the model with a dynamic batch dimension",
        )
    return step


def _label_rows(found: tuple[int, ...], total: int, step: int | None, where: str) -> int | None:
    if not found or found[0] != total:
        raise DataError(
            f"labels {shape_text(found)} do not match {total} samples", where=where, fix="give one label a sample"
        )
    if step is None:
        return 1 if len(found) == 1 else None
    return step


def _labels_key(headers: Mapping[str, Header], specs: Sequence[TensorSpec], labels: str, where: str) -> str | None:
    if any(spec.name == labels for spec in specs):
        return None
    if labels in headers:
        return labels
    if labels != "labels":
        raise DataError(f"no array {labels!r} for the labels", where=where, fix=f"--labels: {nearest(labels, headers)}")
    return None


def _with_batch(found: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    """``found`` with the leading axis that a single sample lacks."""
    return (1, *found) if spec.shape is not None and len(found) + 1 == len(spec.shape) else found


def _entry(array: Array, index: int, rows: int | None) -> Array:
    entry = array[index] if rows is None else array[index * rows : (index + 1) * rows]
    return np.asarray(entry)
