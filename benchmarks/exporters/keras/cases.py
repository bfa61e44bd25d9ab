"""Keras models, trained on scikit-learn's digits, that ``benchmarks.export`` exports through TensorFlow."""

from benchmarks.exporters.case import Case

CASES = (
    Case("cnn", "{folder}/cnn.keras"),
    Case("cnn_h5", "{folder}/cnn.h5"),
    Case("lstm", "{folder}/lstm.keras"),
    Case("transformer", "{folder}/transformer.keras"),
    Case("saved_model", "{folder}/saved"),
    Case("lambda_untrusted", "{folder}/lambda.keras", refused="any code"),
    Case("lambda", "{folder}/lambda.keras", ("--trust",)),
)
