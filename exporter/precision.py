"""How the weights of a bundle are stored, and the model builder's options for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """A precision by the name that the manifest has, and what the builder is told."""

    name: str
    builder: str
    """The builder's own name: `fp32` or `int4`."""
    options: tuple[str, ...] = ()


PRECISIONS = {
    "f32": Precision("f32", "fp32"),
    "int4": Precision("int4", "int4", ("matmul_mixed_precision=last_matmul:int8,mixed_layers:int8",)),
}
