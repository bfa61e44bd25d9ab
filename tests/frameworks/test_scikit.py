"""scikit-learn estimators by ``export``: what comes out, thresholds, missing values, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("skl2onnx", reason="estimators are converted by skl2onnx")
joblib = pytest.importorskip("joblib")

from sklearn.base import BaseEstimator  # noqa: E402
from sklearn.cluster import DBSCAN, KMeans  # noqa: E402
from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.model_selection import TunedThresholdClassifierCV  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler  # noqa: E402
from sklearn.svm import SVC, LinearSVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

from onnxopt.commands.export import export  # noqa: E402
from onnxopt.core.report import Report, Status  # noqa: E402
from onnxopt.errors import InputError, ModelError, OnnxoptError  # noqa: E402
from onnxopt.frameworks.scikit import Estimator  # noqa: E402
from onnxopt.run.target import Target  # noqa: E402

WINE, CANCER, DIABETES = (f(return_X_y=True) for f in (load_wine, load_breast_cancer, load_diabetes))
TARGET = Target(threads=1)
CASES: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "logistic": (make_pipeline(StandardScaler(), LogisticRegression()), WINE, ("label", "probabilities")),
    "svc": (make_pipeline(StandardScaler(), SVC()), CANCER, ("label", "scores")),
    "linear svc": (make_pipeline(StandardScaler(), LinearSVC()), CANCER, ("label", "scores")),
    "forest": (RandomForestClassifier(6, random_state=0), WINE, ("label", "probabilities")),
    "histogram": (HistGradientBoostingClassifier(max_iter=5), WINE, ("label", "probabilities")),
    "boosting": (GradientBoostingRegressor(n_estimators=10), DIABETES, ("prediction",)),
    "ridge": (Ridge(), DIABETES, ("prediction",)),
    "kmeans": (KMeans(3, n_init=1, random_state=0), WINE, ("label", "distances")),
    "pca": (PCA(4), WINE, ("features",)),
    "voting": (
        VotingClassifier(
            [("a", make_pipeline(StandardScaler(), LogisticRegression())), ("b", GaussianNB())], voting="soft"
        ),
        WINE,
        ("label", "probabilities"),
    ),
}


def saved(estimator: Any, folder: Path) -> str:
    path = folder / "e.joblib"
    joblib.dump(estimator, path)
    return str(path)


def exported(estimator: Any, folder: Path) -> tuple[Report, Path]:
    out = folder / "m.onnx"
    return export(saved(estimator, folder), out, trust=True, target=TARGET), out


def answers(path: Path, rows: np.ndarray) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"X": rows.astype(np.float32)})


@pytest.mark.parametrize("name", CASES)
def test_an_estimator_becomes_plain_tensors_equal_to_its_own(name: str, tmp_path: Path) -> None:
    estimator, (rows, truth), outputs = CASES[name]
    estimator.fit(rows, truth)
    report, out = exported(estimator, tmp_path)
    assert report.verdict.status is Status.PASS, report.verdict
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["X"] and session.get_inputs()[0].shape == ["batch", rows.shape[1]]
    assert tuple(o.name for o in session.get_outputs()) == outputs
    found = answers(out, rows)
    asked = "predict" if hasattr(estimator, "predict") else "transform"
    first = getattr(estimator, asked)(rows.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(found[0].reshape(first.shape), first, rtol=1e-4, atol=1e-3)
    method = {"probabilities": "predict_proba", "scores": "decision_function"}.get(outputs[-1])
    if method:
        np.testing.assert_allclose(found[1], getattr(estimator, method)(rows), rtol=1e-3, atol=1e-4)


def test_values_between_a_threshold_and_its_float32_stay_on_their_side(tmp_path: Path) -> None:
    table = np.arange(40.0)[:, None] * 0.1 + 1e-9
    estimator = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=1).fit(table, (np.arange(40) // 3) % 2)
    report, out = exported(estimator, tmp_path)
    assert report.verdict.status is Status.PASS
    cuts = np.unique(
        [t for trees in estimator._predictors for p in trees for t in p.nodes["num_threshold"][p.nodes["is_leaf"] == 0]]
    )
    near = cuts.astype(np.float32)
    assert (near > cuts).any(), "no threshold is rounded up, so that nothing is tested"
    rows = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])[
        :, None
    ]
    expected = estimator.predict_proba(rows.astype(np.float64))
    np.testing.assert_allclose(answers(out, rows)[1], expected, atol=1e-5)


def test_missing_values_go_the_way_that_was_learned(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = generator.standard_normal((200, 3))
    truth = (table[:, 0] > 0).astype(int)
    table[generator.random((200, 3)) < 0.3] = np.nan
    estimator = RandomForestClassifier(5, random_state=0).fit(table, truth)
    report, out = exported(estimator, tmp_path)
    assert report.verdict.status is Status.PASS
    np.testing.assert_allclose(answers(out, table)[1], estimator.predict_proba(table.astype(np.float32)), atol=1e-5)


def test_columns_of_text_become_inputs_of_their_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = np.empty((120, 3), dtype=object)
    table[:, 0], table[:, 2] = generator.standard_normal(120), generator.standard_normal(120)
    table[:, 1] = generator.choice(["red", "green", "blue"], 120)
    truth = (table[:, 0].astype(float) + (table[:, 1] == "red") > 0.3).astype(int)
    columns = ColumnTransformer([("n", StandardScaler(), [2, 0]), ("t", OneHotEncoder(), [1])])
    estimator = make_pipeline(columns, LogisticRegression()).fit(table, truth)
    report, out = exported(estimator, tmp_path)
    assert report.verdict.status is Status.PASS, report.verdict
    feeds = {
        "x0": table[:, :1].astype(np.float32),
        "x1": table[:, 1:2].astype(str),
        "x2": table[:, 2:].astype(np.float32),
    }
    label, probabilities = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, feeds)
    assert (label == estimator.predict(table)).all()
    np.testing.assert_allclose(probabilities, estimator.predict_proba(table), atol=1e-5)


def test_a_conversion_that_loses_the_threshold_is_not_written(tmp_path: Path) -> None:
    rows, truth = CANCER
    few = make_pipeline(StandardScaler(), LogisticRegression())
    estimator = TunedThresholdClassifierCV(few, scoring="recall", random_state=0).fit(rows, 1 - truth)
    assert abs(estimator.best_threshold_ - 0.5) > 0.05
    report, out = exported(estimator, tmp_path)
    assert report.verdict.status is Status.FAIL and "label" in report.verdict.reason
    assert not out.exists()


def test_only_rows_on_a_threshold_are_undecided() -> None:
    rows = np.linspace(-3, 5, 41)[:, None]
    truth = (rows[:, 0] > 0.9).astype(int)
    estimator = make_pipeline(StandardScaler(), DecisionTreeClassifier()).fit(rows, truth)
    scaler, tree = estimator[0], estimator[1].tree_
    cut = np.float32(tree.threshold[0] * scaler.scale_[0] + scaler.mean_[0])
    original = Estimator(estimator, "tree")
    feeds = {"X": np.asarray([[cut], [3.0]], np.float32)}
    given = original.run(feeds)
    other = [1 - given[0], given[1][:, ::-1]]
    assert original.undecided(feeds, given).tolist() == [False, False]
    assert original.undecided(feeds, other).tolist() == [True, False]


def test_labels_of_classes_in_a_tie_are_not_held_against_the_conversion(tmp_path: Path) -> None:
    rows, truth = CANCER
    estimator = ExtraTreesClassifier(50, random_state=0).fit(rows, truth)
    original = Estimator(estimator, "forest")
    feeds = original.feeds(1000, 0, 0)
    assert feeds is not None
    given = original.run(feeds)
    even = np.isclose(given[1][:, 0], 0.5)
    assert even.sum() > 10  # more than may lie on thresholds
    swapped = [np.where(even, 1 - given[0], given[0]), given[1]]
    assert (original.tied(feeds, swapped) == even).all()
    wrong = [1 - given[0], given[1]]
    assert (original.tied(feeds, wrong) == even).all()
    report, _ = exported(estimator, tmp_path)
    assert report.verdict.status is Status.PASS


def test_the_fingerprint_is_that_of_what_was_fitted(tmp_path: Path) -> None:
    rows, truth = WINE
    first = RandomForestClassifier(3, random_state=0).fit(rows, truth)
    again = joblib.load(saved(first, tmp_path))
    other = RandomForestClassifier(3, random_state=1).fit(rows, truth)
    prints = [Estimator(e, "e").fingerprint() for e in (first, again, other)]
    assert prints[0] == prints[1] != prints[2]


def test_skops_files_are_safe_unless_they_bring_types_of_their_own(tmp_path: Path) -> None:
    dump = pytest.importorskip("skops.io").dump
    rows, truth = WINE
    dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, truth), tmp_path / "a.skops")
    assert export(str(tmp_path / "a.skops"), tmp_path / "m.onnx", target=TARGET).verdict.status is Status.PASS
    dump(make_pipeline(Own(), LogisticRegression(max_iter=5000)).fit(rows, truth), tmp_path / "b.skops")
    with pytest.raises(InputError, match=r"test_scikit\.Own"):
        export(str(tmp_path / "b.skops"), tmp_path / "n.onnx", target=TARGET)


def test_a_version_that_is_not_here_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.2.0")
        path = saved(Ridge().fit(*DIABETES), tmp_path)
    report = export(path, tmp_path / "m.onnx", trust=True, target=TARGET)
    assert any("saved with version 1.2.0" in note.reason for note in report.notes)


class Own(BaseEstimator):
    """A step that nobody else has."""

    def fit(self, rows: Any, truth: Any = None) -> Own:
        self.fitted_ = True
        return self

    def transform(self, rows: Any) -> Any:
        return rows


REFUSED = {
    "untrusted": (Ridge().fit(*DIABETES), False, "--trust"),
    "unfitted": (Ridge(), True, "not fitted"),
    "a dictionary": ({"model": 1}, True, "dict with the keys model"),
    "no prediction of new rows": (DBSCAN().fit(WINE[0]), True, "neither predicts"),
    "no converter": (make_pipeline(SplineTransformer(), Ridge()).fit(*DIABETES), True, "SplineTransformer"),
    "a step of one's own": (make_pipeline(Own(), Ridge()).fit(*DIABETES), True, "columns"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    estimator, trust, words = REFUSED[name]
    path = saved(estimator, tmp_path)
    with pytest.raises(OnnxoptError) as caught:
        export(path, tmp_path / "m.onnx", trust=trust, target=TARGET)
    assert words in str(caught.value) and caught.value.exit_code == 3
    assert not (tmp_path / "m.onnx").exists()


def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.pkl").write_text("not a pickle")
    with pytest.raises(ModelError, match="cannot be read"):
        export(str(tmp_path / "e.pkl"), tmp_path / "m.onnx", trust=True, target=TARGET)
