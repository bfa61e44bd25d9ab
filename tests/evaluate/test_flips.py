"""The expected drop against the drop on many unseen items."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.evaluate.flips import FlipMeter, log_odds, log_probabilities, plain_scores
from onnxopt.evaluate.rows import Array


def made(count: int, classes: int, noise: float, seed: int) -> tuple[Array, Array, Array]:
    """Scores, scores with errors that grow with the item, and labels of which the scores find about three in four."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    scores = rng.normal(size=(count, classes))
    scores[np.arange(count), labels] += 3.0
    spread = noise * rng.uniform(0.5, 1.5, (count, 1))
    return scores, scores + spread * rng.normal(size=(count, classes)), labels


def estimate(first: Array, second: Array, labels: Array | None) -> float:
    meter = FlipMeter()
    for part in np.array_split(np.arange(len(first)), 3):
        meter.update(first[part], second[part], None if labels is None else labels[part])
    found = meter.expected_drop()
    assert found is not None
    return found[0]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("classes", [2, 5, 100])
def test_the_estimate_from_few_items_is_nearer_to_the_truth_than_the_count(
    classes: int, noise: float, labelled: bool
) -> None:
    first, second, labels = made(40_000, classes, noise, 0)
    right = labels if labelled else first.argmax(axis=1)
    lost = (first.argmax(axis=1) == right) * 1.0 - (second.argmax(axis=1) == right)
    errors: list[tuple[float, float]] = []
    for seed in range(60):
        few = np.random.default_rng(seed).choice(len(first), 32, replace=False)
        expected = estimate(first[few], second[few], labels[few] if labelled else None)
        errors.append((lost[few].mean() - lost.mean(), expected - lost.mean()))
    counted, estimated = np.sqrt(np.square(errors).mean(axis=0))
    assert estimated < 0.9 * counted
    assert abs(np.mean([e for _, e in errors])) < 0.02 + 0.1 * abs(lost.mean())


def test_small_margins_warn_where_no_item_has_flipped() -> None:
    rng = np.random.default_rng(1)
    scores = np.zeros((30, 3))
    scores[:, 0] = rng.uniform(0, 1, 30)
    errors = np.zeros((30, 3))
    errors[:, 1] = np.where(scores[:, 0] > 0.5, 0.4, -0.4)
    moved = scores + errors
    assert (moved.argmax(axis=1) == 0).all()
    assert 0.1 < estimate(scores, moved, None) < 0.5


def test_equal_scores_promise_no_drop() -> None:
    first, _, labels = made(20, 4, 0.0, 0)
    assert estimate(first, first, None) == 0.0
    assert estimate(first, first, labels) == 0.0


def test_it_does_not_tell_of_what_is_not_finite_or_of_other_shapes() -> None:
    scores = np.eye(3)
    for other in (np.where(scores > 0, np.nan, 0.0), np.ones((3, 2))):
        meter = FlipMeter()
        meter.update(scores, scores, None)
        meter.update(scores, other, None)
        assert meter.expected_drop() is None
    assert FlipMeter().expected_drop() is None


def test_scores_of_columns_and_of_probabilities() -> None:
    column = np.array([[-1.0], [0.0], [2.0]], np.float32)
    assert plain_scores(column).argmax(axis=1).tolist() == [0, 0, 1]
    chances = np.array([0.2, 0.5, 0.9], np.float32)
    assert log_odds(chances).argmax(axis=1).tolist() == [0, 0, 1]
    logits = np.array([[1.0, 3.0, -2.0]])
    soft = np.exp(logits) / np.exp(logits).sum()
    found = log_probabilities(soft)
    assert np.allclose(found - found[:, :1], logits - logits[:, :1])
    assert np.isfinite(log_probabilities(np.array([[0.0, 1.0]]))).all()
