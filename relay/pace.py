"""How many drafts pay, by what the steps of a speculation cost and how often its drafts are right. Pure: no clock.

A round makes drafts at `draft_ms` each, sends k of them and waits `verify_ms` + k `row_ms`; meanwhile it drafts on, as
many as the next round may send, and one more. If each draft is right with probability a, a round decides
E(k) = (1 - a^(k+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192, eq. 1). With a^(k+1) all are right, and so is
the first that was made ahead, which stands where the target's own token does; then the next round begins with the
others ready, else with none. So rounds are a chain of two states, and `best` finds the lengths k of both that decide
the most tokens per millisecond. Lengths of 0 are a round trip per token, so the best are never slower.

A round's drafts are not all alike. With the best rate r and the worth h of beginning ready, in tokens, one more draft
pays if P a (1 - (1 - a) h) > r (draft_ms + row_ms), where P is the probability that all drafts so far are right, from
the confidence behind each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.intp]
MOST_DRAFTS = 32
_DECAY = 0.97
"""Of what was seen, with each new draft that was checked."""
_TIME_DECAY = 0.9
"""Of times, with each new one."""
_ROW_DECAY = 0.99
"""Of what rounds said about a row: lengths differ little from round to round, so that it takes many to tell."""
_BINS = 10
"""Of confidence."""
_PRIOR = 4.0
"""Drafts of a bin that the mean of all counts for."""
_FIRST_RIGHT, _FIRST_WRONG = 2.0, 1.0
"""As if seen before the first draft."""
_ROW_SHARE, _ROW_WEIGHT = 0.25, 2.0
"""What a row of a verification is taken to cost, as a share of a draft, and how many rounds that counts for."""


@dataclass(frozen=True)
class Costs:
    """What the steps of a round take."""

    draft_ms: float
    verify_ms: float
    """From sending no draft to the answer: the link and the target's step."""
    row_ms: float
    """More, for each draft."""


@dataclass(frozen=True)
class Plan:
    """The best lengths under some costs and acceptance."""

    rate: float
    """Tokens per millisecond."""
    fresh: int
    """Drafts of a round that begins with none."""
    ready: int
    """Drafts of a round that begins with those made ahead."""
    worth: float
    """Of beginning ready, in tokens."""


def expected(right: float, length: int) -> float:
    """Tokens that a round of `length` drafts decides, each right with probability `right`."""
    return float(_expected(right, np.array(length)))


def rate(costs: Costs, right: float, fresh: int, ready: int, *, overlap: bool = True) -> Plan:
    """What these lengths reach."""
    return _best_of(costs, right, np.array([fresh]), np.array([ready]), overlap=overlap)


def best(costs: Costs, right: float, most: int = MOST_DRAFTS, *, overlap: bool = True) -> Plan:
    """The lengths of the highest rate."""
    lengths = np.arange(most + 1)
    return _best_of(costs, right, np.repeat(lengths, most + 1), np.tile(lengths, most + 1), overlap=overlap)


def _best_of(costs: Costs, right: float, fresh: Lengths, ready: Lengths, *, overlap: bool) -> Plan:
    """The best of pairs of lengths (n,)."""
    waits = costs.verify_ms + costs.row_ms * fresh
    made = waits // max(costs.draft_ms, 1e-6) - 1  # the first is not there to be sent
    made = np.clip(made, 0, ready) if overlap else np.zeros(len(fresh))
    fresh_ms = fresh * costs.draft_ms + waits
    ready_ms = (ready - made) * costs.draft_ms + costs.verify_ms + costs.row_ms * ready
    to_ready = np.where(made > 0, right ** (fresh + 1.0), 0.0)
    stays = np.minimum(right ** (ready + 1.0), 1 - 1e-9)
    share = to_ready / (to_ready + 1 - stays)
    tokens = _expected(right, ready)
    rates: NDArray[np.float64] = ((1 - share) * _expected(right, fresh) + share * tokens) / (
        (1 - share) * fresh_ms + share * ready_ms
    )
    i = int(np.argmax(rates))
    worth = (tokens[i] - rates[i] * ready_ms[i]) / (1 - stays[i])
    return Plan(float(rates[i]), int(fresh[i]), int(ready[i]), float(worth))


def _expected(right: float, length: Lengths) -> NDArray[np.float64]:
    if right >= 1:
        return np.asarray(length + 1, np.float64)
    return np.asarray((1 - right ** (length + 1.0)) / (1 - right), np.float64)


class Pace:
    """What was measured of the rounds between a draft's exit and a target's, and the lengths that follow from it."""

    def __init__(self) -> None:
        self._right, self._seen = _FIRST_RIGHT, _FIRST_RIGHT + _FIRST_WRONG
        self._bins = [[0.0, 0.0] for _ in range(_BINS)]
        """Of each bin of confidence, drafts that were right and that were checked."""
        self._draft_ms: float | None = None
        self._round: tuple[float, float] | None = None
        """Of rounds, k and ms in the mean."""
        self._spread = [0.0, 0.0]
        """Sums over rounds, of what k was off the mean before it: its square, and by what ms was off."""
        self._plan: Plan | None = None
        self.total_checked = 0
        """Drafts compared with the target's choice so far."""
        self.total_right = 0

    @property
    def right(self) -> float:
        """The share of drafts that are right, where all before them are."""
        return self._right / self._seen

    @property
    def costs(self) -> Costs | None:
        """Measured; None before the first draft and the first round."""
        if self._draft_ms is None or self._round is None:
            return None
        k, ms = self._round
        row_ms = (self._spread[1] + _ROW_WEIGHT * _ROW_SHARE * self._draft_ms) / (self._spread[0] + _ROW_WEIGHT)
        row_ms = min(max(row_ms, 0.0), ms / (k + 1))
        return Costs(self._draft_ms, max(ms - row_ms * k, 0.0), row_ms)

    def plan(self) -> Plan | None:
        """The best lengths by what was measured up to the newest round."""
        if self._plan is None and (costs := self.costs) is not None:
            self._plan = best(costs, min(self.right, 0.999))
        return self._plan

    def pays(self, confidences: Sequence[float]) -> bool:
        """Whether one more draft does, after drafts of these confidences."""
        if len(confidences) >= MOST_DRAFTS:
            return False
        plan, costs = self.plan(), self.costs
        if plan is None or costs is None:
            return len(confidences) < _BEFORE_MEASURED
        right = self.right
        gain = right * (1 - (1 - right) * plan.worth)
        for confidence in confidences:
            gain *= self._right_at(confidence)
        return gain > plan.rate * (costs.draft_ms + costs.row_ms)

    def goes_ahead(self, elapsed_ms: float, sent: int, made: int, length: int | None = None) -> bool:
        """Whether to make another draft behind `sent` ones, which went `elapsed_ms` ago, and `made` behind them: if it
        is made before the answer comes, and the next round may send it. `length` is what rounds send; None: the best.
        """
        costs, plan = self.costs, self.plan()
        if costs is None or plan is None:
            return True
        in_time = elapsed_ms + costs.draft_ms <= costs.verify_ms + costs.row_ms * sent
        return in_time and made < 1 + (plan.ready if length is None else length)

    def drafted(self, ms: float) -> None:
        """A draft took so long."""
        self._draft_ms = ms if self._draft_ms is None else _TIME_DECAY * self._draft_ms + (1 - _TIME_DECAY) * ms

    def verified(self, length: int, ms: float) -> None:
        """A verification of `length` drafts took so long."""
        k, mean_ms = self._round or (length, ms)
        for i, new in enumerate((length - k, ms - mean_ms)):
            self._spread[i] = _ROW_DECAY * self._spread[i] + (length - k) * new
        self._round = _TIME_DECAY * k + (1 - _TIME_DECAY) * length, _TIME_DECAY * mean_ms + (1 - _TIME_DECAY) * ms
        self._plan = None

    def checked(self, confidence: float, right: bool) -> None:
        """A draft of this confidence, all before it right, was or was not what the target's exit says."""
        self.total_checked += 1
        self.total_right += right
        self._right, self._seen = _DECAY * self._right + right, _DECAY * self._seen + 1
        counts = self._bins[_bin(confidence)]
        counts[0], counts[1] = _DECAY * counts[0] + right, _DECAY * counts[1] + 1

    def _right_at(self, confidence: float) -> float:
        right, seen = self._bins[_bin(confidence)]
        return (right + _PRIOR * self.right) / (seen + _PRIOR)


_BEFORE_MEASURED = 4
"""Drafts of a round while nothing is measured."""


def _bin(confidence: float) -> int:
    return min(int(confidence * _BINS), _BINS - 1)
