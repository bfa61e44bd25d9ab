"""scikit-learn estimators: ``.joblib``, ``.pkl`` (with ``--trust``) and ``.skops`` files.

The model takes one input ``X``, ``(batch, n) float32``, or, where columns hold text, one input a column, named as the
column. Classifiers give ``label`` and ``probabilities`` (or ``scores``: their decision function), regressors
``prediction``, transformers ``features``, all plain tensors.

The estimator computes in float64 and the model in float32. Both get the same float32 rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from onnxopt.core.io import save_scratch
from onnxopt.core.plugins import optional
from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError
from onnxopt.frameworks.base import Exporter, Request
from onnxopt.frameworks.drawing import BATCH
from onnxopt.frameworks.scikit_convert import convert
from onnxopt.frameworks.scikit_files import read_estimator
from onnxopt.frameworks.scikit_parts import class_name, convertible, text_columns
from onnxopt.frameworks.scikit_seen import rows, seen
from onnxopt.run.session import Feeds

__all__ = ["Estimator", "open_estimator"]

OPSET = 17
"""Where the user names none: the operators of every ONNX Runtime in use."""
PROBE = 64
"""Rows that the forms of outputs are found on."""
TEXT = np.dtype("U")


def open_estimator(text: str, request: Request) -> Estimator:
    """The estimator in a file.

    Raises:
        InputError: The file needs ``--trust`` or an extra.
        ModelError: It cannot be read, holds something else, or an estimator that has no answers of tensors.
    """
    path = Path(text)
    found, notes = read_estimator(path, request)
    return Estimator(found, path.name, notes, request.seed)


class Estimator:
    """A fitted estimator; what it remembers of its data and its answers on a few rows are computed once."""

    framework = "scikit-learn"

    def __init__(self, estimator: Any, where: str, notes: Sequence[Note] = (), seed: int = 0) -> None:
        self._estimator, self._where, self._seed = estimator, where, seed
        self._columns = _count(estimator, where)
        self._texts = text_columns(estimator, range(self._columns))
        self._by_position = convertible(estimator)
        self.notes = tuple(notes)
        self.outputs = tuple(self._answers(rows(self._seen, 2, np.random.default_rng(seed))))

    @property
    def versions(self) -> Mapping[str, str]:
        """Of scikit-learn and of what converts it."""
        return {name: str(optional(name, "sklearn").__version__) for name in ("sklearn", "skl2onnx")}

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """``X``, or one input a column where some hold text."""
        if not self._texts:
            return (TensorSpec("X", np.dtype(np.float32), (BATCH, self._columns)),)
        names = getattr(self._estimator, "feature_names_in_", [f"x{i}" for i in range(self._columns)])
        dtypes = [TEXT if i in self._texts else np.dtype(np.float32) for i in range(self._columns)]
        return tuple(TensorSpec(str(n), d, (BATCH, 1)) for n, d in zip(names, dtypes, strict=True))

    def run(self, feeds: Feeds) -> tuple[Array, ...]:
        """Labels and probabilities, the prediction, or the features."""
        columns = [np.asarray(feeds[spec.name]) for spec in self.inputs]
        if not self._texts:
            return tuple(self._answers(columns[0].astype(np.float32, copy=False)).values())
        return tuple(self._answers(np.concatenate([c.astype(object) for c in columns], axis=1)).values())

    def fingerprint(self) -> str:
        """Of all that the estimator holds: parameters and what was fitted."""
        import hashlib

        state: str = optional("joblib", "sklearn").hash(self._estimator, hash_name="sha1")
        return hashlib.sha256(f"{class_name(self._estimator)} {state}".encode()).hexdigest()

    def feeds(self, batch: int, variant: int, seed: int) -> Feeds | None:
        """Rows in the range that the estimator has seen."""
        if variant:
            return None
        return self._fed(rows(self._seen, batch, np.random.default_rng((self._seed, seed, batch))))

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """skl2onnx."""

        def write(path: Path) -> None:
            table = rows(self._seen, PROBE, np.random.default_rng(self._seed))
            answers = self._answers(table)
            model = convert(self._estimator, self.inputs, self._fed(table), answers, opset or OPSET, self._where)
            save_scratch(model, path)

        return (Exporter("skl2onnx", write),)

    @cached_property
    def _seen(self) -> Any:
        return seen(self._estimator, self._columns)

    def _fed(self, table: Array) -> Feeds:
        if not self._texts:
            return {"X": table}
        columns = (table[:, i : i + 1] for i in range(self._columns))
        return {
            s.name: c if s.dtype == TEXT else c.astype(np.float32) for s, c in zip(self.inputs, columns, strict=True)
        }

    def _answers(self, table: Array) -> dict[str, Array]:
        """Output name -> what the estimator says to ``table (n, columns)``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {name: _plain(getattr(self._by_position, m)(table), name) for name, m in self._methods().items()}

    def _methods(self) -> dict[str, str]:
        """Output name -> method of the estimator."""
        from sklearn.base import is_classifier, is_outlier_detector

        found = self._by_position
        if not hasattr(found, "predict"):
            if not hasattr(found, "transform"):
                raise ModelError(
                    "the estimator neither predicts nor transforms new rows",
                    where=f"{self._where}: {class_name(found)}",
                    fix="fit one that does, such as KMeans in place of DBSCAN",
                )
            return {"features": "transform"}
        if hasattr(found, "predict_proba"):
            return {"label": "predict", "probabilities": "predict_proba"}
        if (is_classifier(found) or is_outlier_detector(found)) and hasattr(found, "decision_function"):
            return {"label": "predict", "scores": "decision_function"}
        if hasattr(found, "cluster_centers_") and hasattr(found, "transform"):
            return {"label": "predict", "distances": "transform"}
        return {"label": "predict"} if is_classifier(found) else {"prediction": "predict"}


def _count(estimator: Any, where: str) -> int:
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        raise ModelError(
            "the estimator does not say how many columns it takes",
            where=f"{where}: {class_name(estimator)}",
            fix="fit it on an array or a data frame of numbers; text and dictionaries as input are not supported",
        )
    return int(cast(int, count))


def _plain(answer: Any, name: str) -> Array:
    """A dense array: labels int64 or text, all else as it is; predictions ``(n, outputs)``."""
    if isinstance(answer, list):
        raise ModelError("classifiers of several labels at once are not supported", where=name, fix="export one a label")
    array: Array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    if name == "label":
        return array.astype(str).astype(object) if array.dtype.kind in "OSU" else array.astype(np.int64)
    return array.reshape(len(array), -1) if name == "prediction" else array
