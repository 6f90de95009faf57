"""Machines whose times are known exactly, and a family for them."""

from dataclasses import dataclass

from family.spec import SPEC_VERSION, Base, Exit, FamilySpec
from scaling.plan.cost import Machine, NodeCost, Number
from scaling.plan.deployment import Statistics
from scaling.plan.fleet import Link

SPEC = FamilySpec(
    schema_version=SPEC_VERSION,
    name="small",
    base=Base("someone/model", "0" * 64),
    architecture="LlamaForCausalLM",
    n_layers=12,
    d_model=256,
    d_ff=640,
    n_heads=4,
    kv_heads=2,
    head_dim=64,
    vocab_size=32000,
    context=2048,
    exits=(Exit(4, "block"), Exit(8, "block"), Exit(12, "norm")),
)
STATISTICS = Statistics(
    shares={0.1: (0.2, 0.5, 0.3)}, first={0.1: (0.1, 0.2, 0.7)}, acceptance={(1, 3): 0.4, (2, 3): 0.7, (1, 2): 0.5}
)
LINK = Link(0.03, 10e6, 20e6)


@dataclass(frozen=True)
class Linear:
    """So much a forward, a row, a position that is read, and a row of logits."""

    fixed_s: float
    row_s: float
    position_s: float = 0.0
    wanted_s: float = 0.0

    def seconds(self, rows: Number, context: Number, wanted: Number = 0, sessions: Number = 1) -> Number:
        return self.fixed_s + self.row_s * rows + self.position_s * context * sessions + self.wanted_s * wanted


def machine(speed: float = 1.0, memory_bytes: float = 8e9) -> Machine:
    """A machine so many times as fast."""
    names = [f"{kind}-{g}" for kind in ("segment", "exit") for g in (1, 2, 3)]
    return Machine(
        segments={g: Linear(2e-3 / speed, 0.4e-3 / speed, 1e-6 / speed) for g in (1, 2, 3)},
        exits={g: Linear(1e-3 / speed, 0.01e-3 / speed, 0.0, 0.5e-3 / speed) for g in (1, 2, 3)},
        weight_bytes=dict.fromkeys(names, 10e6),
        kv_bytes_per_position={name: 4096.0 if name != "exit-3" else 0.0 for name in names},
        memory_bytes=memory_bytes,
        other_bytes=50e6,
        node=NodeCost(request_s=2e-3, token_s=0.2e-3, message_s=1e-3, row_s=1e-5),
    )
