"""What a placement is judged by: sums over the tiers, or over the tiers up to one. And what a tier adds to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from scaling.plan.fleet import Objective
from scaling.runs import FloatArray

TTFT, TPOT, TTFT_VAR, TPOT_VAR, LENGTH, SLOWEST, COST, POWER, LATENCY, WATCHED = range(10)
"""Rows of sums (S, ...)."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One option of a tier (a precision, a load), by how many layers it has.

    Every array is (L,), for 1..L layers, seconds unless it says other.

    Times pass on to the tiers above; those of `own_*` count for what is decided here only.
    """

    share: float
    """Of requests, decided here."""
    asked: bool
    """Whether its exit's loss matters: it decides something, or a goal says how good it has to be."""
    ttft: FloatArray
    """Of the first part of a prompt: the way here, its layers here, and the answer's way back."""
    slowest: FloatArray
    """The slower of the way here and the layers, for a part: what each further part waits for."""
    tpot: FloatArray
    """Mean time of a token, with the way here and back."""
    ttft_var: FloatArray
    """Variance, s², without what the prompts' lengths make of it."""
    tpot_var: FloatArray
    length: FloatArray
    """Standard deviation of `ttft` by the prompts' lengths: all tiers read the same prompt, so these add up."""
    own_ttft: float
    own_tpot: float
    cost: FloatArray
    """Currency per hour, all machines of the tier."""
    power: FloatArray
    """Watts, all machines of the tier."""
    possible: NDArray[np.bool_]
    """Whether the machines hold it, and there are enough."""
    watched: FloatArray | None = None
    """Anything else that is to be small."""

    @cached_property
    def sums(self) -> FloatArray:
        """What the tier adds (S, L); nothing to the latency, which follows from TPOT."""
        zero = np.zeros_like(self.ttft)
        times = self.ttft, self.tpot, self.ttft_var, self.tpot_var, self.length, self.slowest
        return np.stack([*times, self.cost, self.power, zero, zero if self.watched is None else self.watched])


@dataclass(frozen=True)
class Limits:
    """What every class of requests has to keep; infinite where there is no goal."""

    ttft: float = np.inf
    tpot: float = np.inf
    cost: float = np.inf
    normal: float = 0.0
    """Standard deviations above the mean at which times are compared, not below 0."""
    parts: int = 1
    """That a prompt goes up in, each while the next is computed."""
    prompt_cv: float = 0.0
    """Standard deviation of the prompts' lengths over their mean."""

    def ttft_of(self, sums: FloatArray, own: float) -> FloatArray:
        """Time to first token (P,) of a class by its sums (S, P)."""
        further = (self.parts - 1) * sums[SLOWEST]
        spread = np.sqrt(sums[TTFT_VAR] + (sums[LENGTH] + self.prompt_cv * further) ** 2)
        found: FloatArray = sums[TTFT] + own + further + self.normal * spread
        return found

    def tpot_of(self, sums: FloatArray, own: float) -> FloatArray:
        """Time per token (P,) of a class."""
        found: FloatArray = sums[TPOT] + own + self.normal * np.sqrt(sums[TPOT_VAR])
        return found


COLUMNS: Mapping[str, Sequence[int]] = {
    "cost": (COST,),
    "latency": (LATENCY,),
    "energy": (POWER,),
    "quality": (),
    "exits": (),
    "ttft": (TTFT, TTFT_VAR, LENGTH, SLOWEST),
    "tpot": (TPOT, TPOT_VAR),
    "watched": (WATCHED,),
}
"""By what may be asked to be least, the sums that decide it. Of quality losses do, of exits their layers alone."""
OBJECTIVES: Sequence[Objective] = ("cost", "latency", "energy")
"""Those that sums decide."""
