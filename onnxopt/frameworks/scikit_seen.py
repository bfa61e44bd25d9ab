"""Rows like those an estimator was fitted to, from what it remembers of them.

Scalers remember means and deviations, trees thresholds, support vector machines some of the rows. Rows are drawn evenly
between the bounds that follow; half the values that a tree reads first lie exactly on its thresholds or one float32
beside them, where a threshold that was rounded wrongly shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxopt.core.plugins import optional
from onnxopt.core.tensors import Array
from onnxopt.frameworks.scikit_parts import entries, is_a, text_columns
from onnxopt.frameworks.scikit_trees import floor32, trees_of

__all__ = ["Seen", "rows", "seen"]

MARGIN = 0.1
"""Beyond the bounds, as a share of the range: estimators are asked about unseen values too."""
DECADES = (-1.0, 2.0)
"""Powers of ten by which rows are scaled where no bound is known."""
SPREAD = 3.0
"""Standard deviations around a mean."""
MISSING = 0.05
"""Share of missing values where the estimator was fitted to some."""
Bounds = tuple[Array, Array]


class Seen:
    """What is known of the columns.

    Attributes:
        low: ``(n,)``: lower bounds, NaN where nothing is known.
        high: ``(n,)``
        points: For each column the thresholds that are compared with it as it is.
        missing: Columns that had missing values.
        words: For each column of text the categories.
    """

    def __init__(self, columns: int) -> None:
        self.low = np.full(columns, np.nan)
        self.high = np.full(columns, np.nan)
        self.points: list[Array] = [np.empty(0, np.float32)] * columns
        self.missing: set[int] = set()
        self.words: dict[int, list[str]] = {}


def seen(estimator: Any, columns: int) -> Seen:
    """What the estimator remembers of the columns that it was fitted to."""
    found = Seen(columns)
    texts = text_columns(estimator, range(columns))
    for part, read in entries(estimator, range(columns)):
        read = list(read)
        for column, values in zip(read, getattr(part, "categories_", ()), strict=False):
            if column in texts:
                found.words[column] = sorted({str(v) for v in np.asarray(values).tolist() if isinstance(v, str)})
        numbers = [column for column in read if column not in texts]
        bounds = _bounds(part, len(read)) if len(numbers) == len(read) else None
        if bounds is not None:
            found.low[read] = np.fmin(found.low[read], bounds[0])
            found.high[read] = np.fmax(found.high[read], bounds[1])
        for column, points in zip(read, _thresholds(part, len(read)), strict=True):
            found.points[column] = np.concatenate([found.points[column], points])
        if _had_missing(part):
            found.missing.update(numbers)
    for column in texts:
        found.words.setdefault(column, ["a", "b"])
    return found


def rows(known: Seen, count: int, generator: np.random.Generator) -> Array:
    """``(count, columns)``: float32, or objects where a column holds text."""
    columns = len(known.low)
    blank = np.isnan(known.low) | np.isnan(known.high)
    low = np.where(blank, -2.0, known.low)
    span = np.where(blank, 4.0, np.maximum(known.high - known.low, 1e-6 * np.maximum(1.0, np.abs(known.low))))
    table: Array = low + span * generator.uniform(-MARGIN, 1 + MARGIN, (count, columns))
    table = np.where(blank, table * 10.0 ** generator.uniform(*DECADES, (count, 1)), table).astype(np.float32)
    for column, points in enumerate(known.points):
        if len(points):
            near = np.stack(
                [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))]
            )
            chosen = generator.choice(near.ravel(), count)
            table[:, column] = np.where(generator.random(count) < 0.5, chosen, table[:, column])
    for column in sorted(known.missing):
        table[generator.random(count) < MISSING, column] = np.nan
    if not known.words:
        return table
    mixed = table.astype(object)
    for column, words in known.words.items():
        mixed[:, column] = generator.choice(np.asarray(words, dtype=object), count)
    return mixed


def _thresholds(part: Any, columns: int) -> list[Array]:
    """The finite float32 thresholds that trees compare each column with (infinite ones part off missing values)."""
    trees = list(trees_of(part))
    if not trees or any(features.max(initial=-1) >= columns for features, _, _ in trees):
        return [np.empty(0, np.float32)] * columns
    features = np.concatenate([f for f, _, _ in trees])
    values = floor32(np.concatenate([t for _, t, _ in trees]))
    features = np.where(np.isfinite(values), features, -1)
    return [np.unique(values[features == column]) for column in range(columns)]


def _had_missing(part: Any) -> bool:
    """Whether missing values may have been there; trees that never saw one cannot be told from those that did."""
    if optional("sklearn.base", "sklearn").is_outlier_detector(part):
        return False
    if type(part).__name__ in ("SimpleImputer", "KNNImputer", "IterativeImputer"):
        value = part.missing_values
        return isinstance(value, float) and np.isnan(value)
    return any(bool(left.any()) for _, _, left in trees_of(part))


def _bounds(part: Any, columns: int) -> Bounds | None:
    """Bounds of the columns that ``part`` reads, by the first thing that it remembers."""
    for known in (_from_ranges, _from_deviations, _from_rows, _from_trees):
        try:
            bounds = known(part)
        except (AttributeError, TypeError, ValueError, IndexError):
            continue  # an attribute of that name that means something else
        if bounds is not None and all(np.shape(b) == (columns,) and np.isfinite(b).all() for b in bounds):
            return bounds
    return None


def _from_ranges(part: Any) -> Bounds | None:
    for name, ends in _RANGES.items():
        if getattr(part, name, None) is not None:
            low, high = ends(getattr(part, name), part)
            return np.asarray(low, np.float64), np.asarray(high, np.float64)
    return None


_RANGES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "data_min_": lambda low, part: (low, part.data_max_),
    "max_abs_": lambda most, part: (-most, most),
    "quantiles_": lambda q, part: (q[0], q[-1]),
    "bin_edges_": lambda edges, part: ([e[0] for e in edges], [e[-1] for e in edges]),
    "_bin_mapper": lambda bins, part: (
        [min(t, default=0.0) for t in bins.bin_thresholds_],
        [max(t, default=1.0) for t in bins.bin_thresholds_],
    ),
    "categories_": lambda groups, part: ([min(g) for g in groups], [max(g) for g in groups]),
}
"""Attribute -> both bounds from its value and the estimator."""


def _from_deviations(part: Any) -> Bounds | None:
    mean: Any = getattr(part, "mean_", None)
    if mean is None:
        mean = getattr(part, "center_", None)
    if getattr(part, "theta_", None) is not None:
        deviation = np.sqrt(part.var_)
        return (part.theta_ - SPREAD * deviation).min(axis=0), (part.theta_ + SPREAD * deviation).max(axis=0)
    if mean is None:
        return None
    deviation: Any = getattr(part, "scale_", None)
    if getattr(part, "components_", None) is not None and getattr(part, "explained_variance_", None) is not None:
        deviation = np.sqrt((part.components_**2 * part.explained_variance_[:, None]).sum(axis=0))
    if deviation is None:
        deviation = np.ones_like(mean)
    return mean - SPREAD * deviation, mean + SPREAD * deviation


def _from_rows(part: Any) -> Bounds | None:
    for name in ("support_vectors_", "_fit_X", "X_fit_", "X_train_", "cluster_centers_", "means_"):
        rows: Any = getattr(part, name, None)
        if is_a(rows, np.ndarray) and rows.ndim == 2 and len(rows):
            return rows.min(axis=0), rows.max(axis=0)
    return None


def _from_trees(part: Any) -> Bounds | None:
    points: Sequence[Array] = _thresholds(part, int(part.n_features_in_))
    if not any(len(p) for p in points):
        return None
    return (
        np.asarray([p.min(initial=np.inf) if len(p) else 0.0 for p in points], np.float64),
        np.asarray([p.max(initial=-np.inf) if len(p) else 1.0 for p in points], np.float64),
    )
