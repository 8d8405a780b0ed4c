"""The ONNX operators: how each becomes ops of the graph."""
