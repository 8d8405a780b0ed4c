"""Example models: data, architectures, training, ONNX export. Run from the repository root."""
