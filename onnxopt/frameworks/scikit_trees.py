"""Trees as skl2onnx converts them, with what it leaves out: exact thresholds and the way of missing values.

scikit-learn compares with thresholds of 64 bits, ONNX with thresholds of 32. Of a float32 ``x``, ``x <= t`` holds
exactly where ``x <= floor32(t)`` does, the largest float32 not above ``t``. skl2onnx does so for trees and forests, but
rounds the thresholds of HistGradientBoosting to the nearest float32, which sends values between the two to the other
side; it also gives onnx numbers of numpy types that onnx refuses. Missing values (NaN) go left or right as was learned,
which skl2onnx keeps for HistGradientBoosting only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from onnxopt.core.plugins import optional
from onnxopt.core.tensors import Array
from onnxopt.frameworks.scikit_parts import is_a

__all__ = ["exact_trees", "floor32", "trees_of"]

FORESTS = tuple(
    f"Sklearn{kind}{task}"
    for kind in ("DecisionTree", "ExtraTree", "RandomForest", "ExtraTrees")
    for task in ("Classifier", "Regressor")
)
BOOSTED = ("SklearnHistGradientBoostingClassifier", "SklearnHistGradientBoostingRegressor")
ENSEMBLES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
Convert = Callable[[Any, Any, Any], None]


def floor32(values: Array) -> Array:
    """The largest float32 not above each of ``values``: float64 -> float32."""
    nearest = np.asarray(values, np.float64).astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def trees_of(estimator: Any) -> Iterator[tuple[Array, Array, Array]]:
    """Of each tree, in the order of skl2onnx: feature, threshold and whether missing values go left, for each node.

    Leaves have feature -1.
    """
    if hasattr(estimator, "_predictors"):
        for predictor in (p for iteration in estimator._predictors for p in iteration):
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            features = np.where(leaf, -1, nodes["feature_idx"].astype(np.int64))
            yield features, np.where(leaf, 0.0, nodes["num_threshold"]), nodes["missing_go_to_left"] & ~leaf
        return
    members = getattr(estimator, "estimators_", None)
    members = [estimator] if members is None else np.ravel(np.asarray(members, dtype=object)).tolist()
    for member in members:
        tree = getattr(member, "tree_", None)
        if tree is not None:
            inner = tree.children_left > 0
            missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count))
            yield np.where(inner, tree.feature, -1), np.where(inner, tree.threshold, 0.0), (missing > 0) & inner


@cache
def exact_trees() -> None:
    """Lets skl2onnx, in this process, convert trees exactly."""
    registry = optional("skl2onnx.common._registration", "sklearn")
    optional("skl2onnx.operator_converters", "sklearn")
    for alias in (*FORESTS, *BOOSTED):
        known = registry.get_converter(alias)
        replaced = _exact(known, alias in BOOSTED)
        registry.register_converter(alias, replaced, overwrite=True, options=known.get_allowed_options())


def _exact(convert: Convert, boosted: bool) -> Convert:
    """A converter of skl2onnx whose tree nodes are corrected on their way into the graph."""

    def exact(scope: Any, operator: Any, container: Any) -> None:
        convert(scope, operator, _Container(container, operator.raw_operator, boosted))

    return exact


class _Container:
    """The container of skl2onnx, in all but the nodes of trees."""

    def __init__(self, container: Any, estimator: Any, boosted: bool) -> None:
        self._container, self._estimator, self._boosted = container, estimator, boosted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, op_type: str, *arguments: Any, **attributes: Any) -> Any:
        """Adds a node; one of trees with exact attributes."""
        if op_type in ENSEMBLES:
            attributes |= self._exact(attributes)
        return self._container.add_node(op_type, *arguments, **attributes)

    def _exact(self, attributes: dict[str, Any]) -> dict[str, Any]:
        found = list(trees_of(self._estimator))
        changed: dict[str, Any] = {}
        if found and sum(len(f) for f, _, _ in found) == len(attributes["nodes_values"]):
            left = np.concatenate([missing for _, _, missing in found])
            if left.any():
                changed["nodes_missing_value_tracks_true"] = left.astype(int).tolist()
            if self._boosted:
                changed["nodes_values"] = floor32(np.concatenate([t for _, t, _ in found]))
        if self._boosted:
            plain: dict[str, Any] = {k: v for k, v in attributes.items() if k not in changed and is_a(v, list)}
            changed |= {k: [_plain(item) for item in v] for k, v in plain.items()}
            changed |= {k: _plain(v) for k, v in attributes.items() if is_a(v, np.generic)}
        return changed


def _plain(item: Any) -> Any:
    """A number of Python for one of numpy; ``bool`` becomes ``int``."""
    item = item.item() if is_a(item, np.generic) else item
    return int(item) if is_a(item, bool) else item
