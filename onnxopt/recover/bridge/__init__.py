"""An ONNX graph as a torch module whose parameters are the initializers of the graph; needs torch."""
