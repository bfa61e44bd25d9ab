"""Structured pruning of ONNX graphs: what can go together, what it costs, what repairs the rest."""
