"""`FamilySpec`: one trunk and its exits, as `plan-family` writes it and `train-family` reads it.

A family is a trunk of `n_layers` decoder layers with G exits (arXiv 2512.23407, section 2.1). Exit g reads the
trunk's state after layer l_g and adds a branch, its own norm and the LM head; the last exit (l_G = n_layers) has a norm
only, which is the trunk's final norm.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from family.errors import SpecError
from family.files import write_atomic
from family.strict import FieldError, dumps, from_json

SPEC_VERSION = 2
SPEC_NAME = "spec.json"
"""Its file in a family folder."""
SCRATCHES = SCRATCH, SCRATCH_UNTIED = "scratch", "scratch-untied"
"""Ids of a base that there is none of yet: random weights of the spec's shape, which are trained as a whole. The second
has a head of its own, apart from the embedding."""
BRANCH_KINDS = ("norm", "block", "lowrank")
"""`norm`: norm and head only, as the last exit. `block`: one decoder block of the trunk's own shape. `lowrank`: such a
block with each linear map factorised at the exit's rank."""


@dataclass(frozen=True)
class Base:
    """The pretrained model that the trunk comes from."""

    id: str
    """Hugging Face id, or the name of the model that a local file holds."""
    weights_sha256: str
    """Hash of the weights as the branches saw them in training (`training.base.hash_weights`)."""


@dataclass(frozen=True)
class Exit:
    """One exit: the number of trunk layers under it, and what it adds to them."""

    layer: int
    branch: str
    rank: int | None = None
    """Components kept of each linear map of a `lowrank` branch; a map with a shorter side keeps all of its own."""


@dataclass(frozen=True)
class Segment:
    """Trunk layers first_layer..last_layer - 1, between two exits. Segment 1 owns the embedding."""

    index: int
    first_layer: int
    last_layer: int

    @property
    def n_layers(self) -> int:
        return self.last_layer - self.first_layer


@dataclass(frozen=True)
class FamilySpec:
    """The shape of a family. Shapes are those of the Hugging Face config of the base."""

    schema_version: int
    name: str
    base: Base
    architecture: str
    """Hugging Face class of the base, for example `LlamaForCausalLM`."""
    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    """Positions that a session may hold."""
    exits: tuple[Exit, ...]

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "d_ff", "n_heads", "kv_heads", "head_dim", "vocab_size", "context"):
            if getattr(self, name) < 1:
                raise FieldError(name, f"expected a positive number, got {getattr(self, name)}")
        if self.n_heads % self.kv_heads:
            raise FieldError("kv_heads", f"expected a divisor of n_heads = {self.n_heads}, got {self.kv_heads}")
        check_exits(self.exits, self.n_layers, self.d_model)

    @property
    def granularity(self) -> int:
        """G, the number of exits, the last layer's included."""
        return len(self.exits)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The G trunk segments, in order; segment g ends at exit g's layer."""
        starts = (0, *(e.layer for e in self.exits))
        return tuple(Segment(g + 1, starts[g], e.layer) for g, e in enumerate(self.exits))

    def exit(self, g: int) -> Exit:
        """Exit g, counted from 1."""
        return self.exits[g - 1]

    def with_base(self, base: Base) -> "FamilySpec":
        """The same family on other base weights."""
        return replace(self, base=base)


def check_exits(exits: Sequence[Exit], n_layers: int, d_model: int) -> None:
    """Raise `FieldError`, which names the field, unless `exits` fit a trunk of that many layers and that width."""
    layers = [e.layer for e in exits]
    if not layers or layers[-1] != n_layers:
        raise FieldError("exits", f"the last exit must be after the last layer, {n_layers}; got {layers}")
    if layers[0] < 1 or any(a >= b for a, b in pairwise(layers)):
        raise FieldError("exits", f"layers must be positive and rise, got {layers}")
    for g, exit_ in enumerate(exits):
        if exit_.branch not in BRANCH_KINDS:
            raise FieldError(f"exits[{g}].branch", f"expected one of {BRANCH_KINDS}, got {exit_.branch!r}")
        if exit_.branch != "lowrank" and exit_.rank is not None:
            raise FieldError(f"exits[{g}].rank", f"only a lowrank branch has one; leave it out for {exit_.branch!r}")
        if exit_.branch == "lowrank" and not 1 <= (exit_.rank or 0) <= d_model:
            raise FieldError(f"exits[{g}].rank", f"expected 1..{d_model} (d_model), got {exit_.rank}")
    if exits[-1].branch != "norm":
        raise FieldError(f"exits[{len(layers) - 1}].branch", "the last exit has the trunk's norm only; write 'norm'")


def load_spec(path: Path) -> FamilySpec:
    """Read `spec.json`. Raises `SpecError` that names the file and the field."""
    try:
        return from_json(FamilySpec, _checked_version(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; a family folder holds spec.json and its branches") from None
    except (FieldError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from None


def save_spec(spec: FamilySpec, path: Path) -> None:
    """Write `spec.json`, whole or not at all."""
    write_atomic(path, dumps(spec))


def _checked_version(data: object) -> object:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != SPEC_VERSION:
        raise FieldError("schema_version", f"this release reads version {SPEC_VERSION}, the file is of {version}")
    return data
