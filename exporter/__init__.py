"""Writes a family as a bundle of ONNX graphs that a node can run: one per trunk segment, one per exit."""
