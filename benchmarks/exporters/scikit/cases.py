"""scikit-learn estimators that ``benchmarks.export`` exports, fitted to the data that scikit-learn ships."""

from benchmarks.exporters.case import Case

NAMES = (
    "logistic_digits", "svc_wine", "linear_svc_cancer", "forest_digits", "extra_trees_cancer", "boosting_diabetes",
    "hist_boosting_digits", "hist_boosting_missing", "mlp_digits", "kmeans_digits", "pca_digits", "ridge_diabetes",
    "stacking_wine", "mixed_columns",
)  # fmt: skip

CASES = (
    *(Case(name, f"{{folder}}/{name}.joblib", ("--trust",)) for name in NAMES),
    Case("skops_logistic", "{folder}/skops_logistic.skops"),
    Case("untrusted_pickle", "{folder}/ridge_diabetes.joblib", refused="any code"),
    Case("tuned_threshold", "{folder}/tuned_threshold.joblib", ("--trust",), refused="differs"),
    Case("spline", "{folder}/spline.joblib", ("--trust",), refused="SplineTransformer"),
)
"""skl2onnx converts TunedThresholdClassifierCV without its threshold, and has no converter for SplineTransformer."""
