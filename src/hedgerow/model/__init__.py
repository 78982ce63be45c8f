"""Models as files: the bundle, and what runs it on ONNX Runtime. Imports no torch and no onnx."""
