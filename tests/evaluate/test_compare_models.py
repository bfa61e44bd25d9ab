from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, ModelError, UsageError
from onnxopt.evaluate.bounds import tango_upper
from onnxopt.evaluate.compare import Comparison, Scorer, compare_models
from onnxopt.run.target import Target

Feeds = list[dict[str, np.ndarray]]


def predict(path: Path, inputs: Feeds) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feeds)[0] for feeds in inputs])


@pytest.fixture
def models(classifier: Callable[..., Path]) -> tuple[Path, Path]:
    return classifier("reference"), classifier("candidate", noise=0.3)


def test_without_labels_agreement_is_the_share_of_equal_classes(
    models: tuple[Path, Path], inputs: Feeds, dataset: Callable[..., Dataset], target: Target
) -> None:
    found = compare_models(*models, dataset(inputs), target)
    first, second = (predict(path, inputs) for path in models)
    same = first.argmax(axis=1) == second.argmax(axis=1)
    assert 0 < same.sum() < 200
    assert (found.metric, found.output, found.samples, found.reference_score) == ("agreement[top1]", "y", 200, 1.0)
    assert found.candidate_score == pytest.approx(same.mean())
    assert found.drop == pytest.approx(1 - same.mean())
    assert found.discordant is not None and found.discordant.lost == 200 - same.sum()
    assert found.drop_bound == tango_upper(200 - int(same.sum()), 0, 200)
    (drift,) = found.drift
    assert drift.sqnr_db == pytest.approx(10 * np.log10((first**2).sum() / ((first - second) ** 2).sum()), rel=1e-4)
    assert json.loads(json.dumps(asdict(found)))["discordant"]["gained"] == 0


def test_with_labels_the_drop_is_that_of_accuracy(
    models: tuple[Path, Path], inputs: Feeds, dataset: Callable[..., Dataset], target: Target
) -> None:
    rng = np.random.default_rng(5)
    first, second = (predict(path, inputs).argmax(axis=1) for path in models)
    labels = np.where(rng.random(200) < 0.8, first, rng.integers(0, 4, 200))
    found = compare_models(*models, dataset(inputs, list(labels.reshape(40, 5))), target)
    assert found.metric == "top1"
    assert found.reference_score == pytest.approx(np.mean(first == labels))
    assert found.candidate_score == pytest.approx(np.mean(second == labels))
    assert found.discordant is not None and found.drop_bound is not None
    assert found.discordant.lost == np.sum((first == labels) & (second != labels))
    assert found.drop < found.drop_bound


def test_a_model_compared_with_itself(
    models: tuple[Path, Path], inputs: Feeds, dataset: Callable[..., Dataset], target: Target
) -> None:
    found = compare_models(models[0], models[0], dataset(inputs), target)
    assert (found.drop, found.candidate_score, found.drift[0].sqnr_db) == (0.0, 1.0, np.inf)
    assert found.drop_bound == pytest.approx(2.7 / 200, rel=0.05)


@pytest.mark.parametrize("cache_bytes", [0, 1000, 1 << 20])
@pytest.mark.parametrize("metric", [None, "rmse", "f1"])
def test_a_scorer_gives_every_candidate_what_a_fresh_comparison_gives(
    metric: str | None,
    cache_bytes: int,
    classifier: Callable[..., Path],
    inputs: Feeds,
    dataset: Callable[..., Dataset],
    target: Target,
) -> None:
    reference = classifier("reference")
    rng = np.random.default_rng(0)
    labels = {"rmse": [rng.normal(size=(5, 4)) for _ in inputs], "f1": [rng.integers(0, 4, 5) for _ in inputs]}
    data = dataset(inputs, None if metric is None else labels[metric])
    scorer = Scorer(reference, data, target, metric=metric, seed=3, cache_bytes=cache_bytes)
    for noise in (0.1, 0.3, 1.0):
        candidate = classifier("candidate", noise=noise)
        fresh = compare_models(reference, candidate, data, target, metric=metric, seed=3)
        assert scorer.compare(candidate) == fresh
        light = scorer.compare(candidate, drift=False)
        assert (light.drop, light.drop_bound, light.drift) == (fresh.drop, fresh.drop_bound, ())


def test_a_candidate_that_fails_first_does_not_spoil_the_next(
    classifier: Callable[..., Path],
    write: Callable[..., Path],
    inputs: Feeds,
    dataset: Callable[..., Dataset],
    target: Target,
) -> None:
    last = [*inputs[:-1], {"x": np.zeros((6, 8), np.float32)}]
    scorer = Scorer(classifier("reference"), dataset(last), target)
    fixed = write("fixed", "g (float[N,8] x) => (float[N,4] y) { z = Reshape(x, s) \n y = MatMul(z, w) }",
                  s=np.array([5, 8]), w=np.ones((8, 4), np.float32))  # fmt: skip
    with pytest.raises(DataError, match="does not run"):
        scorer.compare(fixed)
    assert scorer.compare(classifier("same")).samples == 201


def test_a_candidate_that_returns_other_items_is_refused(
    classifier: Callable[..., Path],
    write: Callable[..., Path],
    inputs: Feeds,
    dataset: Callable[..., Dataset],
    target: Target,
) -> None:
    doubled = write("doubled", "g (float[N,8] x) => (float[M,4] y) { y = Reshape(x, s) }", s=np.array([-1, 4]))
    data = dataset(inputs, [np.zeros(5, int)] * 40)
    with pytest.raises(DataError, match="labels do not fit"):
        compare_models(classifier("reference"), doubled, data, target)
    assert compare_models(classifier("reference"), doubled, dataset(inputs), target).candidate_score == 0.0


def test_relative_drop_of_rmse_with_a_bootstrap_bound(
    models: tuple[Path, Path], inputs: Feeds, dataset: Callable[..., Dataset], target: Target
) -> None:
    rng = np.random.default_rng(0)
    first, second = (predict(path, inputs) for path in models)
    truth = first + rng.normal(size=first.shape).astype(np.float32)
    found = compare_models(*models, dataset(inputs, list(truth.reshape(40, 5, 4))), target)
    errors = [np.sqrt(np.mean((y - truth) ** 2)) for y in (first, second)]
    assert (found.metric, found.relative, found.discordant) == ("rmse", True, None)
    assert found.drop == pytest.approx(errors[1] / errors[0] - 1, rel=1e-4)
    assert found.drop_bound is not None and found.drop < found.drop_bound < 2 * found.drop


def test_a_users_metric_sees_all_outputs_and_has_no_bound(
    models: tuple[Path, Path],
    inputs: Feeds,
    dataset: Callable[..., Dataset],
    target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my_metric.py").write_text(
        "def mean(outputs, labels):\n    return outputs[labels == 1].mean()\n"
        "def broken(outputs, labels):\n    return labels.no_such_thing\n"
    )
    monkeypatch.chdir(tmp_path)
    labels = np.arange(200) % 2
    data = dataset(inputs, list(labels.reshape(40, 5)))
    scorer = Scorer(models[0], data, target, metric="my_metric:mean")
    for _ in range(2):
        found = scorer.compare(models[1])
        assert found.reference_score == pytest.approx(predict(models[0], inputs)[labels == 1].mean(), rel=1e-5)
        assert found.candidate_score == pytest.approx(predict(models[1], inputs)[labels == 1].mean(), rel=1e-5)
        assert (found.drop_bound, found.samples) == (None, 200)
    with pytest.raises(DataError, match="AttributeError"):
        compare_models(*models, data, target, metric="my_metric:broken")


def test_another_output_can_be_judged(
    write: Callable[..., Path], dataset: Callable[..., Dataset], target: Target
) -> None:
    graph = "g (float[N,3] x) => (float[N,3] y, float[N,1] p) { y = Neg(x) \n p = ReduceMax<keepdims=1>(x, a) }"
    path = write("two", graph, a=np.array([1]))
    data = dataset([{"x": np.random.default_rng(i).uniform(size=(1, 3)).astype(np.float32)} for i in range(12)])
    assert compare_models(path, path, data, target, output="p").metric == "agreement[threshold]"
    with pytest.raises(UsageError, match="no output 'q'"):
        compare_models(path, path, data, target, output="q")


def test_outputs_whose_size_follows_from_values(
    write: Callable[..., Path], dataset: Callable[..., Dataset], target: Target
) -> None:
    first, second = (
        write(name, "g (float[N] x) => (int64[1,K] y) { m = Greater(x, t) \n y = NonZero(m) }", t=np.float32(value))
        for name, value in (("a", 0.0), ("b", 0.5))
    )
    data = dataset([{"x": np.array(v, np.float32)} for v in ([0.2, 1.0], [1.0, 2.0], [-1.0, 3.0])])
    found = compare_models(first, second, data, target)
    assert (found.metric, found.drift[0].resized) == ("agreement[equal]", 1)
    assert found.candidate_score == pytest.approx(2 / 3)


def test_models_that_cannot_stand_in_for_each_other(
    classifier: Callable[..., Path],
    write: Callable[..., Path],
    inputs: Feeds,
    dataset: Callable[..., Dataset],
    target: Target,
) -> None:
    reference = classifier("reference")
    for graph, message in [
        ("g (float[N,8] x) => (float[N,8] z) { z = Neg(x) }", "outputs 'z' instead of 'y'"),
        ("g (float[N,8] x) => (float[N,8] y) { y = Neg(x) }", "output 'y' has shape"),
        ("g (float[N,8] w) => (float[N,8] y) { y = Neg(w) }", "inputs 'w' instead of 'x'"),
        ("g (float[N,8] x) => (float[N] y) { y = ReduceSum<keepdims=0>(x, a) }", "output 'y' has shape"),
        ("g (double[N,8] x) => (double[N,8] y) { y = Neg(x) }", "input 'x' is tensor"),
    ]:
        other = write("other", graph, **({"a": np.array([1])} if "ReduceSum" in graph else {}))
        with pytest.raises(ModelError, match=message):
            compare_models(reference, other, dataset(inputs), target)


def test_data_that_decide_nothing(
    models: tuple[Path, Path], inputs: Feeds, dataset: Callable[..., Dataset], target: Target
) -> None:
    with pytest.raises(DataError, match="no samples"):
        compare_models(*models, dataset([]), target)
    with pytest.raises(UsageError, match="needs labels"):
        compare_models(*models, dataset(inputs), target, metric="top1")
    with pytest.raises(DataError, match="label 9"):
        compare_models(*models, dataset(inputs, [np.full(5, 9)] * 40), target)
    with pytest.raises(DataError, match="mae of the reference model is inf"):
        compare_models(*models, dataset(inputs, [np.full((5, 4), np.nan)] * 40), target, metric="mae")


def test_a_drop_of_exactly_the_budget_is_within_it() -> None:
    found = Comparison("top1", True, False, "y", 100, 1.0, 0.99, 1.0 - 0.99, 0.05, None, ())
    assert found.drop > 0.01  # in binary
    assert found.is_within(0.01)
    assert not found.is_within(0.0099)
