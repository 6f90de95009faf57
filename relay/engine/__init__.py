"""The engine: a bundle's graphs in ONNX Runtime, one forward at a time on a thread of its own."""
