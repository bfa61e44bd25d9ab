"""Keras models where TensorFlow is not installed: ``benchmarks.export`` exports them through torch."""

from benchmarks.exporters.case import Case

CASES = (
    Case("cnn", "{folder}/cnn.keras"),
    Case("cnn_h5", "{folder}/cnn.h5"),
    Case("lstm", "{folder}/lstm.keras", refused="differs"),
    Case("lstm of 16 rows", "{folder}/lstm.keras", ("--input", "rows:float32[N,16,8]")),
    Case("transformer", "{folder}/transformer.keras"),
    Case("lambda_untrusted", "{folder}/lambda.keras", refused="any code"),
    Case("lambda", "{folder}/lambda.keras", ("--trust",)),
)
"""On torch, Keras runs recurrent layers in a loop of Python, as long as the sample that it is traced with."""
