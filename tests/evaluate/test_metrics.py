from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt.errors import DataError, UsageError
from onnxopt.evaluate.metrics import METRICS, RowMetric, WholeMetric, choose_metric, score_drop
from onnxopt.evaluate.sequences import ctc_greedy, edit_distance

RNG = np.random.default_rng(3)


def score(name: str | None, outputs: np.ndarray, labels: np.ndarray) -> float:
    metric = choose_metric(name, outputs, has_labels=True, labels=labels)
    assert isinstance(metric, RowMetric)
    return float(metric.score(metric.rows(outputs, labels).sum(axis=0)))


def agreement(outputs: np.ndarray, reference: np.ndarray, name: str | None = None) -> tuple[str, float]:
    metric = choose_metric(name, reference, has_labels=False)
    assert isinstance(metric, RowMetric) and metric.against_reference
    return metric.name, float(metric.score(metric.rows(outputs, reference).sum(axis=0)))


@pytest.mark.parametrize(("name", "k"), [("top1", 1), ("top5", 5)])
def test_topk_is_the_share_of_items_whose_label_is_among_the_best(name: str, k: int) -> None:
    scores = RNG.integers(0, 5, (300, 9)).astype(np.float32)  # many ties
    labels = RNG.integers(0, 9, 300)
    right = [
        label in sorted(range(9), key=lambda c: (-row[c], c))[:k] for row, label in zip(scores, labels, strict=True)
    ]
    assert score(name, scores, labels) == pytest.approx(np.mean(right))


def test_topk_takes_labels_of_every_position_and_leaves_padding_out() -> None:
    tokens = np.eye(3, dtype=np.float32)[[[0, 1, 2], [2, 2, 0]]]
    assert score("top1", tokens, np.array([[0, 1, -1], [2, 0, -1]])) == pytest.approx(3 / 4)
    dense = np.moveaxis(np.eye(3, dtype=np.float32)[RNG.integers(0, 3, (2, 4, 5))], -1, 1)
    assert score("top1", dense, dense.argmax(axis=1)) == 1.0


def test_nan_scores_are_wrong() -> None:
    scores = np.array([[np.nan, 1.0], [0.0, 1.0]], np.float32)
    assert score("top1", scores, np.array([0, 1])) == 0.5
    assert score("f1", scores, np.array([1, 1])) == pytest.approx(2 / 3)
    assert agreement(np.full((4, 3), np.nan, np.float32), np.eye(4, 3, dtype=np.float32))[1] == 0.0


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_single_column_is_cut_at_half_for_probabilities_and_at_zero_for_logits(
    shape: tuple[int, ...], shift: float
) -> None:
    labels = RNG.integers(0, 2, 200)
    probabilities = np.clip(0.6 * labels + RNG.uniform(0, 0.6, 200), 0, 1).astype(np.float32)
    right = np.mean((probabilities > 0.5) == labels)
    outputs = (10 * (probabilities - 0.5) if shift else probabilities).reshape(shape)
    assert score(None, outputs, labels) == pytest.approx(right)
    tp = np.sum((probabilities > 0.5) & (labels == 1))
    assert score("recall", outputs, labels) == pytest.approx(tp / labels.sum())
    assert score("f1", outputs, labels) == pytest.approx(2 * tp / (labels.sum() + np.sum(probabilities > 0.5)))


def test_probabilities_show_in_later_samples() -> None:
    first, later = np.array([[0.4]], np.float32), np.array([[-3.0]], np.float32)
    assert choose_metric(None, first, has_labels=False).name == "agreement[threshold]"
    assert choose_metric(None, first, has_labels=False, more_outputs=[later]).name == "agreement[cosine]"


@given(st.integers(3, 6), st.integers(0, 10_000))
def test_macro_f1_and_recall_are_means_over_the_classes_that_occur(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(12, classes)), rng.integers(0, classes, 12)
    predicted = scores.argmax(axis=1)
    f1, recall = [], []
    for c in range(classes):
        tp, fp = np.sum((predicted == c) & (labels == c)), np.sum((predicted == c) & (labels != c))
        fn = np.sum((predicted != c) & (labels == c))
        f1 += [2 * tp / (2 * tp + fp + fn)] if tp + fp + fn else []
        recall += [tp / (tp + fn)] if tp + fn else []
    assert score("f1", scores, labels) == pytest.approx(np.mean(f1))
    assert score("recall", scores, labels) == pytest.approx(np.mean(recall))
    assert score("f1", predicted, labels) == pytest.approx(np.mean(f1))


def test_two_columns_are_binary_and_label_matrices_are_counted_together() -> None:
    scores = np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    assert score("f1", scores, np.array([1, 1, 0, 0])) == pytest.approx(0.5)
    several = np.array([[0.9, 0.1, 0.8], [0.2, 0.7, 0.1]])
    assert score("f1", several, np.array([[1, 0, 0], [1, 1, 0]])) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_predicted_class_names_and_numbers_are_compared_as_they_are() -> None:
    assert score(None, np.array(["a", "b", "c"]), np.array(["a", "b", "x"])) == pytest.approx(2 / 3)
    assert score(None, np.array([3, 1, 2]), np.array([3, 1, 0])) == pytest.approx(2 / 3)


def test_errors_are_means_over_all_numbers() -> None:
    found, truth = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 4))
    assert score("mae", found, truth) == pytest.approx(np.abs(found - truth).mean())
    assert score(None, found, truth) == pytest.approx(np.sqrt(((found - truth) ** 2).mean()))
    assert score("mae", found[:, :1], truth[:, 0]) == pytest.approx(np.abs(found[:, 0] - truth[:, 0]).mean())
    assert score("mae", np.full((2, 1), np.nan), np.zeros(2)) == np.inf


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)), st.floats(0.25, 1e6))
def test_cosine_does_not_see_the_length(vectors: np.ndarray, scale: float) -> None:
    assert score("cosine", scale * vectors.astype(np.float64), vectors) == pytest.approx(1.0)
    assert -1 <= score("cosine", vectors[::-1].copy(), vectors) <= 1


def test_cosine_of_zero_and_broken_vectors() -> None:
    truth = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    found = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 0.0], [np.inf, 1.0], [4.0, 3.0]])
    assert score("cosine", found, truth) == pytest.approx((1 + 0 + 0 + 0 + 24 / 25) / 5)


@given(st.lists(st.integers(1, 4), max_size=7), st.lists(st.integers(1, 4), max_size=7))
def test_edit_distance_is_that_of_the_textbook_recursion(first: list[int], second: list[int]) -> None:
    def textbook(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return textbook(a[1:], b[1:])
        return 1 + min(textbook(a[1:], b), textbook(a, b[1:]), textbook(a[1:], b[1:]))

    assert edit_distance(np.array(first, int), np.array(second, int)) == textbook(first, second)


def test_greedy_ctc_merges_repeats_unless_a_blank_parts_them() -> None:
    path = [0, 1, 1, 0, 1, 2, 2, 0]
    assert ctc_greedy(np.eye(3)[path]).tolist() == [1, 1, 2]


def test_character_error_rate_of_scores_in_both_layouts_and_of_symbols() -> None:
    scores = np.eye(4, dtype=np.float32)[[[1, 1, 0, 2, 0], [3, 0, 3, 3, 0]]]  # reads 12, 33
    labels = np.array([[1, 2, 3], [3, 3, -1]])
    assert score("cer", scores, labels) == pytest.approx(1 / 5)
    assert score("cer", np.moveaxis(scores, 0, 1), labels) == pytest.approx(1 / 5)
    assert score("cer", np.array([[1, 2, -1], [3, 1, -1]]), labels) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        (RNG.normal(size=(6, 3)).astype(np.float32), "top1"),
        (RNG.uniform(size=(6, 1)).astype(np.float32), "threshold"),
        (RNG.normal(size=(6, 1)).astype(np.float32), "cosine"),
        (np.arange(6), "equal"),
        (np.array([True, False]), "equal"),
        (np.array(["a", "b"]), "equal"),
        (np.array([[0.6, -0.8], [1.0, 0.0]], np.float32), "cosine"),
        (RNG.normal(size=(2, 3, 4, 4)).astype(np.float32), "cosine"),
    ],
)
def test_without_labels_the_kind_of_agreement_follows_from_the_output(reference: np.ndarray, kind: str) -> None:
    name, value = agreement(reference, reference)
    assert (name, value) == (f"agreement[{kind}]", pytest.approx(1.0))
    assert agreement(reference[::-1].copy(), reference)[1] < 1.0


def test_agreement_of_integer_maps_is_a_share() -> None:
    assert agreement(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[1, 2, 0, 4], [5, 6, 7, 8]]))[1] == 7 / 8


def test_agreement_can_be_asked_for_with_labels_and_by_kind() -> None:
    outputs, labels = RNG.normal(size=(4, 3)), np.zeros(4, int)
    assert choose_metric("agreement", outputs, has_labels=True, labels=labels).name == "agreement[top1]"
    assert choose_metric("agreement[cosine]", outputs, has_labels=False).name == "agreement[cosine]"
    with pytest.raises(UsageError, match=r"agreement\[top1\] fits"):
        choose_metric("agreement[threshold]", outputs, has_labels=False)


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "message"),
    [
        ("top1", np.zeros((2, 3), np.float32), np.array([0, 3]), "label 3 with 3 classes"),
        ("top1", np.zeros((2, 3), np.float32), np.array([0, -1]), "label -1"),
        ("top1", np.zeros((2, 3), np.float32), np.array([0, 1, 2]), "labels"),
        ("top1", np.zeros((2, 3), np.float32), np.array([0.0, 1.0]), "type float64"),
        ("f1", np.zeros((2, 1), np.float32), np.array([0, 2]), "label 2 with 2 classes"),
        ("rmse", np.zeros((2, 3), np.float32), np.zeros(2), "labels"),
        ("mae", np.array(["a"]), np.zeros(1), "outputs of type str"),
        ("cer", np.zeros((2, 3), np.float32), np.array([[1], [1]]), "cer does not apply"),
        ("cer", np.zeros((2, 3, 2), np.float32), np.array([[1]]), "1 labels for 2 sequences"),
    ],
)
def test_labels_that_do_not_fit(name: str, outputs: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_metric(name, outputs, has_labels=True, labels=labels)


def test_wrong_metric_names() -> None:
    outputs = np.zeros((2, 3), np.float32)
    with pytest.raises(UsageError, match="'top1'"):
        choose_metric("top2", outputs, has_labels=True, labels=np.zeros(2, int))
    with pytest.raises(UsageError, match="needs labels"):
        choose_metric("top1", outputs, has_labels=False)
    with pytest.raises(UsageError, match="more than 5 classes"):
        choose_metric("top5", outputs, has_labels=True, labels=np.zeros(2, int))
    with pytest.raises(UsageError, match="cannot import"):
        choose_metric("no_such_module:f", outputs, has_labels=False)
    with pytest.raises(UsageError, match="'loads'"):
        choose_metric("json:load_", outputs, has_labels=False)


def test_a_users_function_is_found_in_the_working_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_scores.py").write_text("def spread(outputs, labels):\n    return outputs.max() - outputs.min()\n")
    monkeypatch.chdir(tmp_path)
    metric = choose_metric("my_scores:spread", np.zeros((2, 3)), has_labels=False)
    assert isinstance(metric, WholeMetric)
    assert metric.function(np.array([1.0, 4.0]), None) == 3.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_worse_candidate_has_a_positive_drop(first: float, second: float) -> None:
    labels = np.zeros((2, 3))
    for name in METRICS:
        if name in ("top5", "cer", "top1", "f1", "recall"):
            continue
        metric = choose_metric(name, labels + 1, has_labels=True, labels=labels)
        drop = float(score_drop(metric, first, second))
        worse = first > second if metric.higher_is_better else second > first
        assert (drop > 0) == worse
        assert float(score_drop(metric, first, first)) == 0.0


def test_the_drop_of_errors_with_a_unit_is_relative() -> None:
    rmse = choose_metric("rmse", np.zeros((2, 1)), has_labels=True, labels=np.zeros(2))
    assert float(score_drop(rmse, 2.0, 2.5)) == pytest.approx(0.25)
    assert float(score_drop(rmse, 0.0, 0.0)) == 0.0
    assert float(score_drop(rmse, 0.0, 1.0)) == np.inf
