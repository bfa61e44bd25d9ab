"""``module:function``: feeds that a user's Python function yields, spooled to disk so that any can be read again."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from onnxopt.core.plugins import load_function
from onnxopt.core.query import TensorSpec
from onnxopt.data.archive import load
from onnxopt.data.check import fit, require_labels
from onnxopt.data.content import Digest, Source
from onnxopt.data.dataset import Array, Sample
from onnxopt.errors import DataError, OnnxoptError

__all__ = ["LIMIT", "is_callable_path", "open_callable"]

LIMIT = 100_000
"""Samples after which a function that was not bounded by ``samples`` is taken to be endless."""


def is_callable_path(path: str) -> bool:
    """Whether ``path`` has the form ``package.module:function``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path) is not None


def open_callable(path: str, specs: Sequence[TensorSpec], limit: int | None) -> Source:
    """The samples that ``module:function`` yields: feeds, or pairs of feeds and labels.

    The function is run once, and what it yields is kept in a temporary folder that is removed at exit. With ``limit``
    the first ``limit`` samples are taken, so that the function may be endless.

    Raises:
        DataError: The function cannot be imported, fails, or yields what does not fit the inputs.
    """
    function = load_function(path, "--data", DataError)
    folder = Path(tempfile.mkdtemp(prefix="onnxopt-data-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    digest, count, labelled = Digest("callable"), 0, 0
    for index, item in enumerate(_items(function, path, LIMIT + 1 if limit is None else limit)):
        if index == LIMIT and limit is None:
            raise DataError(
                f"more than {LIMIT} samples: the function seems endless", where=path, fix="bound it with --samples"
            )
        where = f"{path}, sample {index}"
        sample = _sample(item, specs, where)
        arrays = [*sample.feeds.values()] + ([] if sample.labels is None else [sample.labels])
        for array in arrays:
            digest.array(array)
        digest.text("")
        try:
            np.savez(_file(folder, index), *arrays)
        except OSError as error:
            fix = "free space there, set TMPDIR to another folder, or ask for fewer --samples"
            raise DataError(f"cannot keep the samples: {error}", where=str(folder), fix=fix) from error
        labelled += sample.labels is not None
        count += 1
    if labelled not in (0, count):
        raise DataError(
            f"{labelled} of {count} samples have labels, the others have none",
            where=path,
            fix="yield (feeds, labels) always or never",
        )
    if not count:
        raise DataError("the function yields no sample", where=path, fix="yield at least one dict of feeds")
    spool = _Spool(path, folder, tuple(specs), labelled > 0)
    return Source(count, spool.read, digest.hex(), labelled > 0)


@dataclass(frozen=True)
class _Spool:
    path: str
    folder: Path
    specs: tuple[TensorSpec, ...]
    has_labels: bool

    def read(self, index: int) -> Sample:
        keys = [f"arr_{i}" for i in range(len(self.specs) + self.has_labels)]
        arrays = load(_file(self.folder, index), keys)
        feeds = {spec.name: arrays[key] for spec, key in zip(self.specs, keys, strict=False)}
        labels = arrays[keys[-1]] if self.has_labels else None
        return Sample(fit(feeds, self.specs, f"{self.path}, sample {index}"), labels)


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06}.npz"


def _items(function: Callable[[], object], path: str, limit: int) -> Iterator[object]:
    index = 0
    try:
        items = function()
        kind = type(items).__name__
        if isinstance(items, Mapping | str | bytes) or not isinstance(items, Iterable):
            raise DataError(
                f"the function returned {kind}, not an iterable of feeds",
                where=path,
                fix="yield one dict of input name to array a sample",
            )
        for item in cast(Iterable[object], items):
            if index >= limit:
                return
            yield item
            index += 1
    except OnnxoptError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise DataError(
            f"the function failed at sample {index}: {_said(error)}", where=path, fix="run it alone and repair it"
        ) from error


def _sample(item: object, specs: Sequence[TensorSpec], where: str) -> Sample:
    labels: Array | None = None
    if isinstance(item, tuple):
        pair = cast(tuple[object, ...], item)
        if len(pair) != 2:
            raise _foreign(f"a tuple of {len(pair)}", where)
        item, labels = pair[0], None if pair[1] is None else _array(pair[1], f"{where}, labels")
    if not isinstance(item, Mapping):
        raise _foreign(type(item).__name__, where)
    feeds = cast(Mapping[object, object], item)
    arrays = {str(name): _array(value, f"{where}, input {name!r}") for name, value in feeds.items()}
    fitted = fit(arrays, specs, where)
    if labels is None:
        return Sample(fitted)
    require_labels(labels.shape, [array.shape for array in fitted.values()], where)
    return Sample(fitted, np.atleast_1d(labels))


def _array(value: object, where: str) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:  # foreign array types may raise anything
        raise DataError(f"not an array: {_said(error)}", where=where, fix="yield numpy arrays") from error
    if array.dtype.kind == "O" and array.size and all(isinstance(entry, str) for entry in array.flat):
        return array.astype(np.str_)
    if array.dtype.kind == "O":
        raise DataError("not an array but a Python object", where=where, fix="yield numpy arrays")
    return array


def _foreign(found: str, where: str) -> DataError:
    return DataError(
        f"expected a dict of feeds or a pair (feeds, labels), found {found}",
        where=where,
        fix="yield one dict of input name to array a sample",
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
