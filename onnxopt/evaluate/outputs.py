"""What ONNX Runtime returns, brought to arrays: tensors, sequences, maps (ZipMap) and absent optionals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from onnxopt.errors import DataError
from onnxopt.evaluate.rows import Array

__all__ = ["as_array", "is_floating", "is_number", "leaves", "size_bytes"]


def leaves(value: object) -> list[Array]:
    """The arrays inside one output value, in a fixed order (a map: its sorted keys, then their values)."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return [cast(Array, value)]
    if isinstance(value, Mapping):
        table = cast(Mapping[Any, Any], value)
        keys = sorted(table)
        return [np.asarray(keys), np.asarray([table[k] for k in keys])]
    if isinstance(value, (list, tuple)):
        return [leaf for part in cast(list[object], value) for leaf in leaves(part)]
    return [np.asarray(value)]


def as_array(value: object, name: str) -> Array:
    """One array for a metric: a tensor itself, a list of maps ``(n, keys)``, a sequence flattened to ``(1, total)``.

    Raises:
        DataError: The value holds nothing, or things of several kinds.
    """
    if isinstance(value, np.ndarray):
        array = cast(Array, value)
        return array.reshape(1) if array.ndim == 0 else array
    parts: list[object] = list(cast(list[object], value)) if isinstance(value, list) else []
    tables = [cast(Mapping[Any, Any], part) for part in parts if isinstance(part, Mapping)]
    if tables and len(tables) == len(parts):
        keys = sorted(tables[0])
        if all(sorted(t) == keys for t in tables):
            return np.asarray([[t[k] for k in keys] for t in tables])
    arrays = leaves(cast(object, value))
    if not arrays or len({is_number(array) for array in arrays}) != 1:
        raise DataError(
            "this output is empty or holds values of several kinds, so that no metric applies",
            where=f"output {name!r}",
            fix="choose another output of the model with --output-name",
        )
    return np.concatenate([array.reshape(-1) for array in arrays])[None, :]


def is_number(array: Array) -> bool:
    """Whether the elements are numbers or booleans (not strings)."""
    return array.dtype.kind not in "OUS"


def is_floating(array: Array) -> bool:
    """Whether the elements are floating point, the small types of ml_dtypes (numpy kind V) included."""
    return array.dtype.kind in "fcV"


def size_bytes(value: object) -> int:
    """Memory of the arrays inside one output value."""
    return sum(leaf.nbytes for leaf in leaves(value))
