"""Lists of images: CSV with a header ``path,label``, or JSON lines ``{"path": ..., "label": ...}``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from onnxopt.data.content import readable
from onnxopt.data.dataset import Array
from onnxopt.errors import DataError

__all__ = ["Listing", "class_note", "read_manifest"]


@dataclass(frozen=True)
class Listing:
    """Image files in order.

    Attributes:
        paths: The files.
        labels: ``(len(paths),)`` int64 or float64, or ``None``.
        notes: What was decided about labels or left out.
    """

    paths: tuple[Path, ...]
    labels: Array | None
    notes: tuple[str, ...] = ()


def read_manifest(path: Path) -> Listing:
    """The images that a manifest lists; their paths are relative to its folder.

    Labels are integers (classes), numbers (targets), or names, which are numbered from 0 in sorted order.

    Raises:
        DataError: It is unreadable or empty, a file does not exist, or only some entries have labels.
    """
    with readable(path, "manifest"):
        text = path.read_text(encoding="utf-8-sig")
    rows = _csv(text, path) if path.suffix.lower() == ".csv" else _jsonl(text, path)
    paths: list[Path] = []
    labels: list[str] = []
    for line, row in rows:
        where = f"{path}, line {line}"
        name = row.get("path")
        if not isinstance(name, str) or not name.strip():
            raise DataError("no path", where=where, fix="give each entry a path")
        file = path.parent / name.strip()
        if not file.is_file():
            raise DataError(f"no such file: {name}", where=where, fix="paths are relative to the manifest's folder")
        label = row.get("label")
        if label is not None and (isinstance(label, bool) or not isinstance(label, str | int | float)):
            raise DataError(f"label {label!r} is no number or name", where=where, fix="give an integer class")
        label = "" if label is None else str(label).strip()
        if paths and bool(labels) != bool(label):
            raise DataError("some entries have a label, others have none", where=where, fix="label all, or none")
        paths.append(file)
        labels += [label] if label else []
    if not paths:
        raise DataError("the manifest lists no images", where=str(path), fix="add lines path,label")
    if not labels:
        return Listing(tuple(paths), None)
    return Listing(tuple(paths), *_numbers(labels, path))


def class_note(names: list[str]) -> str:
    """A note that tells how class names were numbered."""
    shown = ", ".join(f"{index}={name}" for index, name in enumerate(names[:5]))
    return f"classes numbered in sorted order: {shown}{', ...' if len(names) > 5 else ''} ({len(names)} in all)"


def _csv(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    with readable(path, "CSV"):
        try:
            reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise ValueError(str(error)) from error
    if "path" not in columns:
        found = ", ".join(map(repr, columns)) or "nothing"
        raise DataError(
            f"the first line names no column 'path': {found}", where=str(path), fix="begin the file with: path,label"
        )
    for line, row in rows:
        if None in row:
            raise DataError("more fields than columns", where=f"{path}, line {line}", fix="quote commas in paths")
        yield line, {str(key).strip(): value for key, value in row.items()}


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, entry in enumerate(text.splitlines(), start=1):
        if not entry.strip():
            continue
        try:
            row = json.loads(entry)
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=f"{path}, line {line}", fix="one JSON object a line") from error
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=f"{path}, line {line}", fix='write {"path": ..., "label": ...}')
        yield line, cast(Mapping[str, object], row)


def _numbers(labels: list[str], path: Path) -> tuple[Array, tuple[str, ...]]:
    for dtype, parse in ((np.int64, int), (np.float64, float)):
        try:
            numbers = np.array([parse(label) for label in labels], dtype=dtype)
        except (ValueError, OverflowError):
            continue
        if not np.isfinite(numbers).all():
            raise DataError("a label is NaN or infinite", where=str(path), fix="give finite labels")
        return numbers, ()
    names = sorted(set(labels))
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[label] for label in labels], dtype=np.int64), (class_note(names),)
