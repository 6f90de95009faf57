"""The daemon: one tier's part of a family, served over gRPC."""
