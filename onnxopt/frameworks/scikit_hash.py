"""A hash of what an estimator is: its parameters and all that was fitted, the same in every process.

Pickles differ between processes and versions, and do not tell the same estimator twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxopt.frameworks.scikit_parts import class_name, is_a

__all__ = ["fingerprint"]

LOGS = frozenset({"cv_results_", "refit_time_", "fit_time_"})
"""What was noted while fitting and changes no answer."""


def fingerprint(estimator: Any) -> str:
    """Hex SHA-256."""
    digest = hashlib.sha256()
    _add(digest, estimator, {})
    return digest.hexdigest()


def _add(digest: Any, item: Any, seen: dict[int, int]) -> None:
    """Adds one value; an object that was there before counts by its number."""
    if item is None or is_a(item, bool | int | float | complex | str | bytes):
        digest.update(f"{type(item).__name__}:{item!r};".encode())
        return
    if is_a(item, np.generic):
        digest.update(f"{item.dtype.str}:{item.item()!r};".encode())
        return
    if id(item) in seen:
        digest.update(f"again:{seen[id(item)]};".encode())
        return
    seen[id(item)] = len(seen)
    if is_a(item, np.ndarray):
        digest.update(f"array:{item.dtype.str}:{item.shape};".encode())
        if item.dtype.hasobject:
            _add(digest, item.tolist(), seen)
        else:
            digest.update(np.ascontiguousarray(item).tobytes())
    elif is_a(item, Mapping):
        digest.update(b"{")
        for key in sorted(item, key=_order):
            if key not in LOGS:
                _add(digest, key, seen)
                _add(digest, item[key], seen)
        digest.update(b"}")
    elif is_a(item, list | tuple):
        digest.update(f"[{len(item)}".encode())
        for part in item:
            _add(digest, part, seen)
    elif is_a(item, set | frozenset):
        _add(digest, sorted(item, key=repr), seen)
    else:
        _add_object(digest, item, seen)


def _order(key: object) -> tuple[str, str]:
    return str(type(key)), repr(key)


def _add_object(digest: Any, item: Any, seen: dict[int, int]) -> None:
    if is_a(item, type) or (is_a(item, Callable) and hasattr(item, "__qualname__")):
        digest.update(f"{item.__module__}.{item.__qualname__};".encode())
        return
    digest.update(f"{class_name(item)}(".encode())
    if type(item).__module__.startswith("numpy.random"):
        return  # the state of a random generator changes no answer
    state = item.__getstate__() if hasattr(item, "__getstate__") else getattr(item, "__dict__", None)
    if hasattr(item, "toarray"):
        rows: Any = item.tocsr()
        state = [rows.shape, rows.data, rows.indices, rows.indptr]
    _add(digest, state, seen)
