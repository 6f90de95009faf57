"""The engine: a bundle's graphs in ONNX Runtime, one forward at a time on a thread of its own."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its Linux wheels report to their maker unless told not to
