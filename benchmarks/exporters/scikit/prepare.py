"""Fits the estimators of ``cases`` to digits, wine, cancer and diabetes data: ``python -m ... FOLDER``."""

import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from skops.io import dump


def main(folder: Path) -> None:
    digits, wine = load_digits(return_X_y=True), load_wine(return_X_y=True)
    cancer, diabetes = load_breast_cancer(return_X_y=True), load_diabetes(return_X_y=True)
    holes = np.where(np.random.default_rng(0).random(cancer[0].shape) < 0.1, np.nan, cancer[0]), cancer[1]
    logistic = make_pipeline(StandardScaler(), LogisticRegression())
    fits = {
        "logistic_digits": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)), digits),
        "svc_wine": (make_pipeline(StandardScaler(), SVC()), wine),
        "linear_svc_cancer": (make_pipeline(MinMaxScaler(), LinearSVC()), cancer),
        "forest_digits": (RandomForestClassifier(50, random_state=0), digits),
        "extra_trees_cancer": (ExtraTreesClassifier(50, random_state=0), cancer),
        "boosting_diabetes": (GradientBoostingRegressor(random_state=0), diabetes),
        "hist_boosting_digits": (HistGradientBoostingClassifier(max_iter=20, random_state=0), digits),
        "hist_boosting_missing": (HistGradientBoostingClassifier(max_iter=50, random_state=0), holes),
        "mlp_digits": (make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=60, random_state=0)), digits),
        "kmeans_digits": (KMeans(10, n_init=1, random_state=0), digits),
        "pca_digits": (PCA(10), digits),
        "ridge_diabetes": (Ridge(), diabetes),
        "stacking_wine": (StackingClassifier([("a", logistic), ("b", GaussianNB())]), wine),
        "skops_logistic": (logistic, wine),
        "tuned_threshold": (TunedThresholdClassifierCV(LogisticRegression(max_iter=5000), random_state=0), cancer),
        "spline": (make_pipeline(SplineTransformer(), Ridge()), diabetes),
    }
    for name, (estimator, (rows, truth)) in fits.items():
        estimator.fit(rows, truth)
        if name.startswith("skops"):
            dump(estimator, folder / f"{name}.skops")
        else:
            joblib.dump(estimator, folder / f"{name}.joblib")
    joblib.dump(_mixed(), folder / "mixed_columns.joblib")


def _mixed():
    """A frame with two numbers and a column of text: the class of a wine by alcohol, colour and a word for its hue."""
    data = load_wine(as_frame=True)
    frame = data.data[["alcohol", "color_intensity"]].copy()
    frame["hue"] = np.where(data.data["hue"] < 0.8, "low", np.where(data.data["hue"] < 1.05, "middle", "high"))
    columns = ColumnTransformer(
        [("numbers", StandardScaler(), ["alcohol", "color_intensity"]), ("words", OneHotEncoder(), ["hue"])]
    )
    return make_pipeline(columns, LogisticRegression()).fit(frame, data.target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
