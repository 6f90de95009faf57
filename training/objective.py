"""What a family is trained for: cross-entropy, distillation from the last exit, or both, and the weight of each exit.

The family loss is Σ_g w_g L_g (arXiv 2512.23407, eq. 3), with w_g = 1/G unless told otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from family.strict import FieldError

KINDS = ("ce", "kl", "ce+kl")

Weights = tuple[float, ...]


@dataclass(frozen=True)
class Progress:
    """How far a run is. Schedules and the ranks of low-rank branches follow it."""

    step: int = 0
    """Optimizer steps done."""
    share: float = 0.0
    """Share of the run that is done, 0..1."""


@dataclass(frozen=True)
class Objective:
    """The loss of every exit, and how they add up.

    A position carries loss where its label is not ignored. With CE_g the mean cross-entropy of exit g over these, and
    KL_g the mean of τ² KL(teacher_τ || exit g_τ) over every `every`-th of them (Hinton et al., arXiv 1503.02531), the
    teacher being the last exit in the same forward, into which no gradient flows:

    `ce`: L_g = CE_g. `kl`: L_g = KL_g, and L_G = 0: the last exit is not trained.
    `ce+kl`: L_g = (1 - kl_weight) CE_g + kl_weight KL_g for g < G, and L_G = CE_G.
    """

    kind: str = "ce"
    kl_weight: float = 0.5
    """λ, of `ce+kl` only."""
    temperature: float = 1.0
    """τ."""
    every: int = 1
    """Every how many positions carry the KL; which of them changes from step to step."""
    weights: Weights | None = None
    """w_g, constant; None for the config's `exit_weights`, or 1/G."""
    schedule: tuple[tuple[float, Weights], ...] = ()
    """Points (share of training done, w_1..w_G) with shares that rise, linear between them; instead of `weights`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FieldError("kind", f"expected one of {KINDS}, got {self.kind!r}")
        if not 0 <= self.kl_weight <= 1:
            raise FieldError("kl_weight", f"expected 0..1, got {self.kl_weight}")
        for name in ("temperature", "every"):
            if not getattr(self, name) > 0:
                raise FieldError(name, f"expected a positive number, got {getattr(self, name)}")
        if self.weights is not None and self.schedule:
            raise FieldError("schedule", "give weights or a schedule, not both")
        if any(a >= b for (a, _), (b, _) in pairwise(self.schedule)):
            raise FieldError("schedule", f"shares must rise, got {[share for share, _ in self.schedule]}")
        for weights in (*(point for _, point in self.schedule), *([self.weights] if self.weights else [])):
            check_weights(weights)

    @property
    def distils(self) -> bool:
        """Whether the last exit's logits are a target."""
        return self.kind != "ce"

    def shares(self, granularity: int) -> tuple[tuple[float, float], ...]:
        """Coefficients of CE and of KL in L_g, by exit."""
        early, last = {
            "ce": ((1.0, 0.0), (1.0, 0.0)),
            "kl": ((0.0, 1.0), (0.0, 0.0)),
            "ce+kl": ((1 - self.kl_weight, self.kl_weight), (1.0, 0.0)),
        }[self.kind]
        return (*(early,) * (granularity - 1), last)

    def weights_at(self, share: float, granularity: int, default: Sequence[float] | None = None) -> Weights:
        """w_1..w_G when that share of training is done. Raises `FieldError` if they are not G numbers."""
        found = _interpolated(self.schedule, share) if self.schedule else self.weights or default
        weights = tuple(found) if found else (1 / granularity,) * granularity
        if len(weights) != granularity:
            raise FieldError("weights", f"expected one per exit, {granularity}; got {len(weights)}")
        return weights


def check_weights(weights: Sequence[float]) -> None:
    """Raise `FieldError` unless these can be the weights of exits."""
    if not all(0 <= w < float("inf") for w in weights) or not sum(weights):
        raise FieldError("weights", f"expected numbers from 0 on, not all 0; got {list(weights)}")


def _interpolated(schedule: tuple[tuple[float, Weights], ...], share: float) -> Weights:
    if share <= schedule[0][0]:
        return schedule[0][1]
    for (start, before), (end, after) in pairwise(schedule):
        if share <= end:
            t = (share - start) / (end - start)
            return tuple(a + t * (b - a) for a, b in zip(before, after, strict=True))
    return schedule[-1][1]
