"""What an estimator is made of: the estimators in it, the ones that read the raw columns, and a copy that converts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from onnxopt.core.plugins import optional

__all__ = ["class_name", "convertible", "entries", "is_a", "parts", "text_columns"]

Columns = Sequence[int]
META = ("best_estimator_", "estimator_", "base_estimator_")
"""Where estimators that wrap one other keep it once it is fitted."""


def is_a(item: object, kind: Any) -> bool:
    """``isinstance`` that tells a type checker nothing: scikit-learn has no types that it could use."""
    return isinstance(item, kind)


def class_name(estimator: object) -> str:
    """``module.Class`` of scikit-learn without its private modules, as people import it."""
    kind = type(estimator)
    public = [part for part in kind.__module__.split(".") if not part.startswith("_")]
    return ".".join([*public, kind.__qualname__])


def _held(item: object) -> list[Any]:
    return list(vars(item).values())


def parts(estimator: Any) -> Iterator[Any]:
    """The estimator and all estimators in it, each once."""
    BaseEstimator: Any = optional("sklearn.base", "sklearn").BaseEstimator

    seen: set[int] = set()
    waiting: list[Any] = [estimator]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or is_a(item, str | bytes | int | float):
            continue
        seen.add(id(item))
        if is_a(item, BaseEstimator):
            yield item
            waiting += reversed(_held(item))
        elif is_a(item, dict):
            waiting += reversed(list(item.values()))
        elif is_a(item, list | tuple) or (is_a(item, np.ndarray) and item.dtype == object):
            waiting += reversed(list(item.ravel() if is_a(item, np.ndarray) else item))


def entries(estimator: Any, columns: Columns) -> list[tuple[Any, Columns]]:
    """The estimators that read raw columns, with the columns that each of them reads."""
    ColumnTransformer: Any = optional("sklearn.compose", "sklearn").ColumnTransformer
    FeatureUnion: Any = optional("sklearn.pipeline", "sklearn").FeatureUnion
    Pipeline: Any = optional("sklearn.pipeline", "sklearn").Pipeline

    if estimator is None or is_a(estimator, str):
        return []
    if is_a(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
        return entries(steps[0], columns) if steps else []
    if is_a(estimator, FeatureUnion):
        return [found for _, part in estimator.transformer_list for found in entries(part, columns)]
    if is_a(estimator, ColumnTransformer):
        indices = _columns_of(estimator)
        return [
            found
            for name, part, _ in estimator.transformers_
            for found in entries(part, [columns[i] for i in indices.get(name, ()) if i < len(columns)])
        ]
    wrapped = next((getattr(estimator, name) for name in META if hasattr(estimator, name)), None)
    if wrapped is not None and not hasattr(estimator, "estimators_"):
        return entries(wrapped, columns)
    members: Any = getattr(estimator, "calibrated_classifiers_", None) or getattr(estimator, "estimators_", None)
    if is_a(members, list) and not hasattr(members[0], "tree_") and not hasattr(estimator, "estimators_features_"):
        return [f for m in members for f in entries(getattr(m, "estimator", None) or m, columns)]
    return [(estimator, columns)]


def _columns_of(transformer: Any) -> dict[str, list[int]]:
    """The columns that each part of a fitted ColumnTransformer reads, by its name."""
    return getattr(transformer, "_transformer_to_input_indices", {})


def text_columns(estimator: Any, columns: Columns) -> set[int]:
    """The columns that hold text, known by the categories and fill values that were learned from them."""
    found: set[int] = set()
    for part, read in entries(estimator, columns):
        learned = getattr(part, "categories_", None)
        if learned is None and hasattr(part, "statistics_"):
            learned = [np.asarray([value]) for value in part.statistics_]
        for column, values in zip(read, () if learned is None else learned, strict=False):
            items = np.asarray(values).ravel().tolist()
            if any(is_a(item, str) for item in items):
                found.add(column)
    return found


def convertible(estimator: Any) -> Any:
    """A copy without what only hinders its conversion and changes none of its answers.

    A ColumnTransformer names its columns by number, so that it takes one array; a VotingClassifier and a
    KBinsDiscretizer return dense arrays.
    """
    ColumnTransformer: Any = optional("sklearn.compose", "sklearn").ColumnTransformer
    VotingClassifier: Any = optional("sklearn.ensemble", "sklearn").VotingClassifier
    KBinsDiscretizer: Any = optional("sklearn.preprocessing", "sklearn").KBinsDiscretizer

    copy = deepcopy(estimator)
    for part in parts(copy):
        if is_a(part, ColumnTransformer):
            indices = _columns_of(part)
            part.transformers_ = [(n, t, list(indices.get(n, ()))) for n, t, _ in part.transformers_ if indices.get(n)]
        elif is_a(part, VotingClassifier):
            part.flatten_transform = False
        elif is_a(part, KBinsDiscretizer) and part.encode == "onehot":
            part.encode = "onehot-dense"
            if hasattr(part, "_encoder"):
                part._encoder.sparse_output = False
    return copy
