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
from onnxopt.errors import ModelError, OnnxoptError
from onnxopt.frameworks.base import Exporter, Request, said_by
from onnxopt.frameworks.drawing import BATCH
from onnxopt.frameworks.scikit_convert import convert
from onnxopt.frameworks.scikit_files import read_estimator
from onnxopt.frameworks.scikit_hash import fingerprint
from onnxopt.frameworks.scikit_parts import class_name, convertible, text_columns
from onnxopt.frameworks.scikit_seen import Seen, rows, seen
from onnxopt.frameworks.specs import refuse_described
from onnxopt.run.session import Feeds

__all__ = ["OPSET", "PROBE", "Estimator", "open_estimator"]

OPSET = 17
"""Where the user names none: the operators of every ONNX Runtime in use."""
PROBE = 64
"""Rows that the forms of outputs are found on."""
TEXT = np.dtype("U")
HALVINGS = 12
"""Of the distance to the border of two classes."""
TOLERANCE, TIE = 1e-4, 1e-5
"""Of what is compared, and of two scores that count as equal; shares of the largest value."""
ASKED, NEIGHBOURS = 64, 64
"""Rows that are asked about again, and rows around each of them."""
ULPS = 2.0**-21
"""How far they lie, as a share of the values: four units in the last place of float32."""


def open_estimator(text: str, request: Request) -> Estimator:
    """The estimator in a file.

    Raises:
        InputError: The file needs ``--trust`` or an extra.
        UsageError: The user describes inputs.
        ModelError: It cannot be read, holds something else, or an estimator that has no answers of tensors.
    """
    path = Path(text)
    refuse_described(request.inputs, path.name)
    found, notes = read_estimator(path, request)
    return Estimator(found, path.name, notes, request.seed)


class Estimator:
    """A fitted estimator; what it remembers of its data and its answers on a few rows are computed once."""

    framework = "scikit-learn"
    batches = (1, 2, 8, 1000)
    """Sizes of the calls that are compared: rows are cheap, and trees and labels differ on few of them."""

    def __init__(self, estimator: Any, where: str, notes: Sequence[Note] = (), seed: int = 0) -> None:
        self._estimator, self._where, self._seed = estimator, where, seed
        self._columns = _count(estimator, where)
        self._texts = text_columns(estimator, range(self._columns))
        self._by_position = convertible(estimator)
        self._methods = _methods(self._by_position, where)
        self._seen, self._dtype = self._accepted()
        self.notes = tuple(notes)
        self.outputs = tuple(self._methods)

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
        """Labels and probabilities, the prediction, or the features, as float32 where they are no labels."""
        return tuple(self._answers(self._table(feeds)).values())

    def fingerprint(self) -> str:
        """Of all that the estimator holds: parameters and what was fitted."""
        return fingerprint(self._estimator)

    def feeds(self, batch: int, variant: int, seed: int) -> Feeds | None:
        """Rows in the range that the estimator has seen; of classifiers half of them near the border of two classes."""
        if variant:
            return None
        generator = np.random.default_rng((self._seed, seed, batch))
        table = rows(self._seen, batch, generator)
        if "label" in self._methods and not self._texts and batch > 1:
            table = np.concatenate([table[: batch - batch // 2], self._between(table, batch // 2, generator)])
        return self._fed(table)

    def exporters(self, opset: int | None) -> Sequence[Exporter]:
        """skl2onnx."""

        def write(path: Path) -> None:
            feeds = self.feeds(PROBE, 0, 0) or {}
            answers = self._answers(self._table(feeds))
            save_scratch(convert(self._estimator, self.inputs, feeds, answers, opset or OPSET, self._where), path)

        return (Exporter("skl2onnx", write),)

    def undecided(self, feeds: Feeds, found: Sequence[Array]) -> Array:
        """Rows ``(n,) bool`` on which the estimator's own answer turns into ``found`` within the rounding of float32.

        The estimator, asked about rows that differ by a few units in the last place of float32, gives that answer for
        one of them: the row lies on a threshold.
        """
        table = self._table(feeds)
        given = self._answers(table)
        scales = [_scale(y) for y in given.values()]
        differ = np.flatnonzero(~_agree(given, found, scales))[:ASKED]
        undecided = np.zeros(len(table), bool)
        if not len(differ):
            return undecided
        others = self._answers(self._around(table[differ]))
        wanted = [np.repeat(y[differ], NEIGHBOURS, axis=0) for y in found]
        undecided[differ] = _agree(others, wanted, scales).reshape(len(differ), NEIGHBOURS).any(axis=1)
        return undecided

    def tied(self, feeds: Feeds, found: Sequence[Array]) -> Array:
        """Rows ``(n,) bool`` on which all agrees but the label, which names the other one of two classes in a tie."""
        given = self._answers(self._table(feeds))
        if "label" not in given:
            return np.zeros(len(found[0]), bool)
        return _agree(given, found, [_scale(y) for y in given.values()]) & (given["label"] != found[0])

    def _around(self, table: Array) -> Array:
        """``NEIGHBOURS`` rows around each row, the row itself among them."""
        around = np.repeat(table, NEIGHBOURS, axis=0)
        generator = np.random.default_rng(self._seed)
        shift = generator.uniform(-1, 1, around.shape)
        shift[::NEIGHBOURS] = 0.0
        for column in set(range(self._columns)) - self._texts:
            values = around[:, column].astype(np.float64)
            bound = np.nan_to_num(max(abs(self._seen.low[column]), abs(self._seen.high[column])))
            around[:, column] = values + ULPS * np.maximum(np.abs(values), bound) * shift[:, column]
        return self._cast(around)

    def _accepted(self) -> tuple[Seen, type[np.generic]]:
        """What is known of the columns, and the dtype that the estimator takes: rows are tried.

        Some estimators refuse missing values though their parts do not, some take only the dtype they were fitted to.
        """
        known = seen(self._estimator, self._columns)
        missing: list[set[int]] = [known.missing, set()] if known.missing else [set()]
        error: Exception | None = None
        for columns in missing:
            known.missing = columns
            for dtype in (np.float64, np.float32):
                self._dtype = dtype
                try:
                    self._answers(self._cast(rows(known, PROBE, np.random.default_rng(self._seed))))
                except OnnxoptError:
                    raise
                except Exception as refusal:  # estimators raise whatever their code raises
                    error = error or refusal
                    continue
                return known, dtype
        raise ModelError(
            f"the estimator fails on rows of its own width: {said_by(error)}",
            where=f"{self._where}: {class_name(self._estimator)}, {self._columns} columns",
            fix="check that it predicts in the environment it was saved in",
        ) from error

    def _between(self, table: Array, count: int, generator: np.random.Generator) -> Array:
        """``count`` rows on lines between rows of different classes, closer and closer to where the class changes."""
        labels = self._answers(self._cast(table))["label"]
        first = generator.integers(0, len(table), count)
        second = np.asarray([_other(labels, labels[i], generator) for i in first])
        near, far = table[first], table[second]
        own, steps = labels[first], generator.integers(1, HALVINGS + 1, count)
        for step in range(HALVINGS):
            middle = ((near.astype(np.float64) + far) / 2).astype(np.float32)
            same = (self._answers(self._cast(middle))["label"] == own)[:, None]
            moves = (step < steps)[:, None]
            near, far = np.where(moves & same, middle, near), np.where(moves & ~same, middle, far)
        return np.where(generator.random((count, 1)) < 0.5, near, far)

    def _table(self, feeds: Feeds) -> Array:
        columns = [np.asarray(feeds[spec.name]) for spec in self.inputs]
        if not self._texts:
            return self._cast(columns[0].astype(np.float32))
        return np.concatenate([c.astype(object) for c in columns], axis=1)

    def _cast(self, table: Array) -> Array:
        return table if self._texts else table.astype(self._dtype)

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
            return {name: _plain(getattr(self._by_position, m)(table), name) for name, m in self._methods.items()}


def _methods(found: Any, where: str) -> dict[str, str]:
    """Output name -> method of the estimator."""
    base: Any = optional("sklearn.base", "sklearn")
    if not hasattr(found, "predict"):
        if not hasattr(found, "transform"):
            raise ModelError(
                "the estimator neither predicts nor transforms new rows",
                where=f"{where}: {class_name(found)}",
                fix="fit one that does, such as KMeans in place of DBSCAN",
            )
        return {"features": "transform"}
    if hasattr(found, "predict_proba"):
        return {"label": "predict", "probabilities": "predict_proba"}
    if (base.is_classifier(found) or base.is_outlier_detector(found)) and hasattr(found, "decision_function"):
        return {"label": "predict", "scores": "decision_function"}
    if hasattr(found, "cluster_centers_") and hasattr(found, "transform"):
        return {"label": "predict", "distances": "transform"}
    return {"label": "predict"} if base.is_classifier(found) else {"prediction": "predict"}


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
        raise ModelError(
            "classifiers of several labels at once are not supported", where=name, fix="export one a label"
        )
    array: Array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    if name == "label":
        return array.astype(str).astype(object) if array.dtype.kind in "OSU" else array.astype(np.int64)
    array = array.astype(np.float32) if array.dtype.kind in "fiu" else array
    return array.reshape(len(array), -1) if name == "prediction" else array


def _other(labels: Array, label: object, generator: np.random.Generator) -> int:
    """A row of another label; any where there is none."""
    others = np.flatnonzero(labels != label)
    return int(generator.choice(others if len(others) else len(labels)))


def _scale(answer: Array) -> float:
    return 0.0 if answer.dtype == object else float(np.max(np.abs(answer[np.isfinite(answer)]), initial=0.0))


def _agree(given: Mapping[str, Array], found: Sequence[Array], scales: Sequence[float]) -> Array:
    """``(n,) bool``: all outputs agree; a label also where the one that was found is as likely as the one given."""
    agree = np.ones(len(next(iter(given.values()))), bool)
    for (name, mine), other, scale in zip(given.items(), found, scales, strict=True):
        if name == "label":
            agree &= (mine == other) | _tied(list(given.values())[1:], scales[1:])
        else:
            far = ~np.isclose(mine, other, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True)
            agree &= ~far.reshape(len(far), -1).any(axis=1)
    return agree


def _tied(scores: Sequence[Array], scales: Sequence[float]) -> Array:
    """``(n,) bool``: the two best classes are equally likely."""
    if not scores:
        return np.asarray(False)
    if scores[0].ndim == 1:
        return np.abs(scores[0]) <= TIE * scales[0]
    best = np.sort(scores[0], axis=1)[:, -2:]
    return np.abs(best[:, -1] - best[:, 0]) <= TIE * scales[0]
