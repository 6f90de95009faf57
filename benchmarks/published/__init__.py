"""What others measured and published about machines: one row a time, with what the planner predicts for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from family.spec import SPEC_VERSION, Base, Exit, FamilySpec

if TYPE_CHECKING:
    from scaling.plan.hardware import Hardware
    from scaling.plan.roofline import Format


@dataclass(frozen=True)
class Row:
    """One published time."""

    name: str
    measured_s: float
    predicted_s: float
    calibrated: bool = False
    """Whether something was calibrated on it."""

    @property
    def error(self) -> float:
        return abs(self.predicted_s / self.measured_s - 1)


def shape(layers: int, d: int, ff: int, heads: int, keys: int, head_dim: int, vocabulary: int) -> FamilySpec:
    """A dense model, the family of one exit."""
    exits = (Exit(layers, "norm"),)
    base = Base("published", "")
    return FamilySpec(
        SPEC_VERSION, "dense", base, "LlamaForCausalLM", layers, d, ff, heads, keys, head_dim, vocabulary, 8192, exits
    )


MODELS = {
    "llama3.2-3b": shape(28, 3072, 8192, 24, 8, 128, 128256),
    "llama2-7b": shape(32, 4096, 11008, 32, 32, 128, 32000),
    "llama2-13b": shape(40, 5120, 13824, 40, 40, 128, 32000),
    "llama3.1-8b": shape(32, 4096, 14336, 32, 8, 128, 128256),
    "qwen2.5-14b": shape(48, 5120, 13824, 40, 8, 128, 152064),
    "llama2-70b": shape(80, 8192, 28672, 64, 8, 128, 32000),
    "llama3.1-70b": shape(80, 8192, 28672, 64, 8, 128, 128256),
    "qwen3-0.6b": shape(28, 1024, 3072, 16, 8, 128, 151936),
    "qwen3-4b": shape(36, 2560, 9728, 32, 8, 128, 151936),
}


def text_seconds(
    spec: FamilySpec, machine: "Hardware", form: "Format", rows: float, context: float, sessions: float = 1.0
) -> float:
    """A forward of a whole model that makes one row of logits per session."""
    from scaling.plan.roofline import roofline

    made = roofline(spec, machine, form=form)
    return float(
        made.segments[1].seconds(rows, context, 0, sessions) + made.exits[1].seconds(rows, context, sessions, sessions)
    )


def held(precision: str, each: float, kv_bytes: float, head: float) -> "Format":
    """Weights of a published model."""
    from scaling.plan.roofline import Format

    return Format(precision, each, each, head, kv_bytes, precision if head == each else "f16", "f16")


def weights_of(spec: FamilySpec) -> float:
    """Weights of layers and head."""
    from scaling.plan.roofline import matrices

    return spec.n_layers * sum(i * o for i, o in matrices(spec)) + spec.vocab_size * spec.d_model
