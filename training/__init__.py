"""Training of families: a shared trunk from a Hugging Face decoder, and a branch for each early exit.

Import the modules themselves (`training.base`, `training.modeling`, ...): this package imports nothing heavy.
"""
