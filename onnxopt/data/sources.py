"""``--data PATH``: which kind of source a path is, and its samples as a :class:`~onnxopt.data.dataset.Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.data.callables import is_callable_path, open_callable
from onnxopt.data.check import require_tensors
from onnxopt.data.content import Source
from onnxopt.data.dataset import Dataset
from onnxopt.data.images import list_images, open_images
from onnxopt.data.manifest import Listing, read_manifest
from onnxopt.data.npz import open_npy, open_npz, open_npz_folder
from onnxopt.data.preprocess import read_preprocess
from onnxopt.data.protobuf import data_set_folders, open_test_data
from onnxopt.errors import DataError, UsageError, nearest

__all__ = ["open_dataset"]

_KINDS = ".npz, .npy, .csv, .jsonl, a folder of .npz files or images, ONNX test_data_set_* folders, or module:function"


def open_dataset(
    path: str,
    specs: Sequence[TensorSpec],
    *,
    labels: str = "labels",
    preprocess: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The samples at ``path``, checked against the inputs of a model.

    Names, dtypes and shapes are checked now, values when a sample is read. A sample is one call: a row of an
    ``.npz`` array or an image, or as many as the model's batch size where that is fixed.

    Args:
        path: A file, a folder, or ``module:function`` (imported with the current folder on ``sys.path``).
        specs: The inputs of the model.
        labels: Name of the array of labels in ``.npz`` files.
        preprocess: ``preprocess.toml``, for images only.
        samples: Keep a random subset of this size, in the order of the source; of a function, the first ones.
        seed: Seeds the choice of the subset.

    Raises:
        DataError: The path does not exist or cannot be read, or the data do not fit the inputs.
        UsageError: An option or a key of ``preprocess`` is wrong, or has no effect on this source.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} samples are no data", where="--samples", fix="give a number from 1 up")
    if not path:
        raise UsageError("the path of the data is empty", where="--data", fix=f"give {_KINDS}")
    require_tensors(specs, path)
    try:
        source, name = _open(path, specs, labels, preprocess, samples)
    except OSError as error:  # a folder that may not be listed
        raise DataError(f"cannot read the data: {error}", where=path, fix="check the permissions") from error
    order, notes = tuple(range(source.count)), source.notes
    if samples is not None and samples < source.count:
        chosen = np.random.default_rng(seed).choice(source.count, samples, replace=False)
        order = tuple(sorted(int(index) for index in chosen))
    elif samples is not None and samples > source.count:
        notes = (*notes, f"{samples} samples asked for, {source.count} found")
    return Dataset(name, source.read, order, source.digest, source.has_labels, notes=notes)


def _open(
    path: str, specs: Sequence[TensorSpec], labels: str, preprocess: Path | None, samples: int | None
) -> tuple[Source, str]:
    file = Path(path)
    name = file.absolute().name
    if not file.exists() and is_callable_path(path):
        _refuse(preprocess, labels, path)
        return open_callable(path, specs, samples), path
    if not file.exists():
        raise _missing(file)
    listing = _images(file)
    if listing is not None:
        _refuse(None, labels, path)
        settings = None if preprocess is None else read_preprocess(preprocess)
        return open_images(listing, specs, settings, path), name
    _refuse(preprocess, "labels", path)
    if file.is_dir():
        return _open_folder(file, specs, labels), name
    match file.suffix.lower():
        case ".npz":
            return open_npz(file, specs, labels), name
        case ".npy":
            _refuse(None, labels, path)
            return open_npy(file, specs), name
        case suffix:
            raise DataError(f"no data can be read from a {suffix or 'bare'} file", where=path, fix=f"give {_KINDS}")


def _images(file: Path) -> Listing | None:
    """The images of a manifest, or of a folder that holds no other kind of samples; ``None`` for any other source."""
    if file.is_file():
        return read_manifest(file) if file.suffix.lower() in (".csv", ".jsonl") else None
    if data_set_folders(file) or _has_npz(file):
        return None
    listing = list_images(file)
    return listing if listing.paths else None


def _open_folder(folder: Path, specs: Sequence[TensorSpec], labels: str) -> Source:
    sets = data_set_folders(folder)
    if sets:
        _refuse(None, labels, str(folder))
        return open_test_data(sets, specs)
    if _has_npz(folder):
        return open_npz_folder(folder, specs, labels)
    raise DataError("the folder holds no samples", where=str(folder), fix=f"give {_KINDS}")


def _has_npz(folder: Path) -> bool:
    return any(entry.suffix.lower() == ".npz" for entry in folder.iterdir())


def _refuse(preprocess: Path | None, labels: str, path: str) -> None:
    if labels != "labels":
        raise UsageError(
            f"--labels {labels} names an array, and this source has no named arrays beside the inputs",
            where=f"--labels with {path}",
            fix="leave --labels out, or give .npz files",
        )
    if preprocess is not None:
        raise UsageError(
            "preprocessing applies to images only", where=f"--preprocess with {path}", fix="leave --preprocess out"
        )


def _missing(file: Path) -> DataError:
    try:
        siblings = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        siblings = []
    guess = nearest(file.name, siblings)
    hint = guess if guess.startswith("did you mean") else f"or give {_KINDS}"
    return DataError("no such file or folder", where=str(file), fix=f"check the path; {hint}")
