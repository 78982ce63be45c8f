"""Models as files: the bundle, and what runs it on ONNX Runtime alone. Never imports torch or onnx."""
