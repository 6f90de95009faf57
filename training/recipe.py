"""What decides the result of a training run, besides the family, its base and the text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.objective import Objective

SCHEDULES = ("cosine", "wsd")
"""Of the learning rate after warm-up: half a cosine to `FINAL_LR_SHARE`, or level, then down over `DECAY_SHARE`."""
TRUNKS = ("frozen", "lora", "full")
"""What of the trunk is trained: nothing, low-rank deltas of its linear maps (Hu et al., arXiv 2106.09685), or all."""
OBJECTIVES = {"frozen": "kl", "lora": "ce+kl", "full": "ce"}
"""The usual objective for each trunk, a kind of `training.objective`."""
FINAL_LR_SHARE = 0.05
DECAY_SHARE = 0.2


@dataclass(frozen=True)
class WeightPoint:
    """The weights of the exits' losses at one point of a run; linear between two points."""

    share: float
    """Share of the run that is done, 0..1."""
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """What decides a run's result. How many processes or threads share the work is no part of it."""

    tokens: int
    """Training tokens of all passes, each rounded down to whole steps of batch x window."""
    batch: int
    """Windows per optimizer step, of all processes together."""
    window: int
    """Tokens per window."""
    lr: float
    """Peak learning rate of AdamW."""
    seed: int
    """Decides the order of the text, and what is drawn at random before the first step."""
    passes: int = 1
    """How often every window comes. A frozen trunk runs in the first pass only."""
    schedule: str = "cosine"
    """One of `SCHEDULES`."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.01
    """Of AdamW; norms and biases have none."""
    bf16: bool = False
    """Whether matrix products are in bfloat16 (autocast); weights and gradients that are trained stay float32."""
    trunk: str = "frozen"
    """One of `TRUNKS`."""
    lora_rank: int | None = None
    """Of the trunk's deltas, for `lora` only."""
    objective: str = "kl"
    """`ce`, `kl` or `ce+kl`: `training.objective.Objective.kind`."""
    kl_weight: float = 0.5
    temperature: float = 1.0
    every: int = 2
    """Every how many positions carry KL. Neighbours teach nearly the same, and the head is half of a step's cost."""
    weights: tuple[WeightPoint, ...] = ()
    """Of the exits' losses; 1/G each where there are none."""

    @property
    def steps(self) -> int:
        return self.tokens // (self.batch * self.window * self.passes) * self.passes

    def loss(self) -> "Objective":
        """The objective as the model takes it. Raises `FieldError` for fields that do not make one."""
        from training.objective import Objective

        points = tuple((point.share, point.weights) for point in self.weights)
        return Objective(
            kind=self.objective,
            kl_weight=self.kl_weight,
            temperature=self.temperature,
            every=self.every,
            weights=points[0][1] if len(points) == 1 else None,
            schedule=points if len(points) > 1 else (),
        )
