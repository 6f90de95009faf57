"""The engines that `benchmarks.engine` compares, each run as a child process in an environment of its own.

A child's module (`llama_cpp`, `openvino`, `ort_genai`, `ours`, `probe`) imports the standard library, numpy and its
engine only: it is run by another Python, where this project is not installed. Parent and child speak JSON, one object a
line (`protocol`).
"""
