"""onnxopt: ONNX post-training optimization with a measured proof that the result is faster and still right."""

__version__ = "0.1.0"
