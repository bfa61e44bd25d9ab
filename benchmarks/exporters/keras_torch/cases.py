"""Keras models where TensorFlow is not installed: ``benchmarks.export`` exports them through torch."""

from benchmarks.exporters.case import Case

CASES = (
    Case("cnn", "{folder}/cnn.keras"),
    Case("cnn_h5", "{folder}/cnn.h5"),
    Case("lstm", "{folder}/lstm.keras"),
    Case("transformer", "{folder}/transformer.keras"),
    Case("lambda_untrusted", "{folder}/lambda.keras", refused="any code"),
    Case("lambda", "{folder}/lambda.keras", ("--trust",)),
)
