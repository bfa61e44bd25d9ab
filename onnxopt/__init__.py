"""onnxopt: ONNX post-training optimization with a measured proof that the result is faster and still right."""

import os

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Before ONNX Runtime is imported: it would leave a file with an identifier in the temporary folder."""
