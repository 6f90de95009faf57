"""Sampling as a pure function of (logits, seed, position, sample index): filter, then Gumbel-max.

The noise of a token is drawn by its id from a counter-based generator (Philox4x64), and does not depend on the exit or
on what was filtered. So a replay gives the same text, and a draft is right exactly where the target exit's own sample
is the same token.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from relay.errors import InvalidRequestError

F32: TypeAlias = NDArray[np.float32]
UINT32, UINT64 = (1 << 32) - 1, (1 << 64) - 1

_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_U = 2.0**-32
"""The unit of a u's upper 32 bits."""
_LEAST_U = np.float32(2.0**-33)
"""The least u, in that unit."""
_ROUNDING = 1 - 1e-3
"""Candidates are first found in f32; whatever comes this close to the best is compared again in f64."""


def _require(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise InvalidRequestError(f"{name} cannot be {value}; give {expected}")


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits. Filters apply in this order: temperature, top-k, top-p, min-p.

    Raises `InvalidRequestError` for a value that makes no sense.
    """

    temperature: float = 0.0
    """Divides the logits; 0: greedy, the most probable token."""
    top_k: int = 0
    """Only the k most probable tokens; 0: all. Tokens as probable as the k-th stay."""
    top_p: float = 1.0
    """Only the most probable tokens that together have this probability (nucleus sampling, arXiv 1904.09751)."""
    min_p: float = 0.0
    """Only tokens at least this probable, relative to the most probable one (arXiv 2407.01082)."""
    seed: int = 0
    """64 bits."""
    index: int = 0
    """Which of several samples of the same prompt."""

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 (greedy) or more")
        _require(0 <= self.top_k <= UINT32, "top_k", self.top_k, "0 (off) to 4294967295")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "more than 0, at most 1 (off)")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 (off) to 1")
        _require(0 <= self.seed <= UINT64, "seed", self.seed, "a 64-bit number from 0 on")
        _require(0 <= self.index <= UINT32, "sample index", self.index, "0 or more")


GREEDY = Sampling()


@dataclass(frozen=True)
class Penalties:
    """Against repetition. They need the ids of the text, not only the logits.

    Raises `InvalidRequestError` for a value that makes no sense.
    """

    repetition: float = 1.0
    """Divides the positive and multiplies the negative logits of every token in prompt and text (arXiv 1909.05858)."""
    presence: float = 0.0
    """Taken off the logit of every token that the text has (prompt excluded)."""
    frequency: float = 0.0
    """Taken off as often as the text has the token (prompt excluded)."""

    def __post_init__(self) -> None:
        _require(1e-3 <= self.repetition <= 1e3, "repetition_penalty", self.repetition, "0.001 to 1000; 1 is off")
        _require(abs(self.presence) <= 1e3, "presence_penalty", self.presence, "-1000 to 1000; 0 is off")
        _require(abs(self.frequency) <= 1e3, "frequency_penalty", self.frequency, "-1000 to 1000; 0 is off")


NO_PENALTIES = Penalties()


def sample(logits: F32, sampling: Sampling, position: int) -> int:
    """The token id of `position`, from logits (vocab,). Ties go to the lower id."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    with np.errstate(over="ignore"):  # infinitely less probable than the best
        scaled = (logits - logits.max()) * np.float32(min(max(1 / sampling.temperature, _LEAST), _MOST))
    bits = noise_bits(sampling.seed, sampling.index, position, len(logits))
    kept = survivors(scaled, sampling)
    if len(kept) < len(scaled):
        bits, scaled = bits[kept], scaled[kept]
    # argmax of l + g, where g = -log(e) and e is exponential, is argmax of exp(l) / e; and no e is less than its u.
    most = np.exp(scaled) / np.maximum((bits >> np.uint64(32)).astype(np.float32), _LEAST_U)
    first = np.argmax(most, keepdims=True)
    reached = np.exp(_scores(scaled, bits, first)) * _U
    (near,) = np.nonzero(most >= reached * _ROUNDING)
    best = near[np.argmax(_scores(scaled, bits, near))]
    return int(kept[best])


def _scores(scaled: F32, bits: NDArray[np.uint64], of: NDArray[np.intp]) -> NDArray[np.float64]:
    return scaled[of].astype(np.float64) - np.log(_exponential(bits[of]))


def survivors(scaled: F32, sampling: Sampling) -> NDArray[np.intp]:
    """Ids that the filters leave, ascending; `scaled` are logits over the temperature, less their largest."""
    kept = np.arange(len(scaled))
    if 0 < sampling.top_k < len(scaled):
        least = np.partition(scaled, -sampling.top_k)[-sampling.top_k]
        kept = np.flatnonzero(scaled >= least)
    if sampling.top_p < 1:
        probable = np.exp(scaled[kept])
        kept = kept[probable >= _nucleus(probable, sampling.top_p)]
    if sampling.min_p > 0:
        kept = kept[scaled[kept] >= math.log(sampling.min_p)]
    return kept


def _nucleus(probable: F32, share: float) -> np.float32:
    """The least probable of the most probable that together have the share; `probable` need not add up to 1."""
    needed, most = share * probable.sum(dtype=np.float64), 64
    while True:
        most = min(most, len(probable))
        descending = np.sort(np.partition(probable, -most)[-most:])[::-1]
        total = np.cumsum(descending, dtype=np.float64)
        if total[-1] >= needed or most == len(probable):
            least: np.float32 = descending[min(int(np.searchsorted(total, needed)), most - 1)]
            return least
        most *= 8


def noise_bits(seed: int, index: int, position: int, vocab_size: int) -> NDArray[np.uint64]:
    """64 random bits for every token id. A pure function: the stream is keyed by (seed, index), counted by position."""
    key = np.array([seed, index], np.uint64)
    counter = np.array([0, position, 0, 0], np.uint64)
    drawn = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return drawn.integers(0, 2**64, vocab_size, np.uint64)  # what `random_raw` gives, in less time


def _exponential(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Exponential variates -log(1 - u) of u in (0, 1]. The small ones, which win, come of small u, exact in floats."""
    u = bits.astype(np.float64) * 2.0**-64 + 2.0**-65
    with np.errstate(divide="ignore"):  # u that rounds to 1 gives infinity: such a token loses
        variates: NDArray[np.float64] = -np.log1p(-u)
    return variates


def penalised(penalties: Penalties, prompt: Sequence[int], text: Sequence[int]) -> Callable[[F32], F32] | None:
    """What the penalties do to the logits of the token that follows `prompt` and `text`; None for nothing."""
    if penalties == NO_PENALTIES:
        return None
    seen = np.unique(np.array([*prompt, *text], np.int64))
    said, times = np.unique(np.array(text, np.int64), return_counts=True)

    def adjust(logits: F32) -> F32:
        adjusted = logits.copy()
        of_seen = adjusted[seen]
        factor = np.float32(penalties.repetition)
        adjusted[seen] = np.where(of_seen > 0, of_seen / factor, of_seen * factor)
        adjusted[said] -= (penalties.presence + penalties.frequency * times).astype(np.float32)
        return adjusted

    return adjust
