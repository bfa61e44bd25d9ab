"""ONNX Runtime sessions for a target, and the feeds that go in."""
