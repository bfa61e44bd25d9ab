"""Training the weights of an ONNX graph: the graph as a torch module, and distillation into it."""
