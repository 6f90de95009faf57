"""What a policy makes of a text: how often each place is reached and with how many rows, in the mean.

Always with one (`FixedExit`), with those of the tokens since the last time (`ConfidenceExit`), or with all drafts of a
round (`SpeculativeExit`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scaling.plan.chain import Chain
from scaling.plan.cost import Number
from scaling.plan.deployment import (
    ConfidenceExit,
    DeploymentError,
    FixedExit,
    Policy,
    SpeculativeExit,
    Statistics,
)
from scaling.plan.rounds import rounds
from scaling.plan.spent import Spent
from scaling.plan.wire import FRAMING

K = TypeVar("K")
V = TypeVar("V")
HALF = 0.5
_FEW_DRAFTS = 4.0
"""Drafts at which what one more adds to a verification is taken."""


@dataclass(frozen=True)
class Case:
    """What a share of the tokens takes, without jitter and without waiting for other texts."""

    share: float
    seconds: Number
    reaches: int
    """The last place that has a part in it, from 0; -1: it comes with the token before it."""
    more: float = 0.0
    """Tokens that the last place writes by itself before this one is seen, since they come together."""


@dataclass(frozen=True)
class Text:
    """Of a policy, in the mean."""

    first: Spent
    """Up to the first token; its seconds are the median."""
    step: Spent
    """A further one in the mean."""
    asked: tuple[int, ...]
    """The exits that are ever asked."""
    firsts: tuple[Case, ...]
    furthers: tuple[Case, ...]
    beside: float = 0.0


def text_of(policy: Policy, chain: Chain, prompt: float, output: float, statistics: Statistics) -> Text:
    """A text of so many tokens through a chain. Raises `DeploymentError` where the statistics lack what it needs."""
    context = prompt + output / 2
    match policy:
        case FixedExit():
            return _fixed(chain, policy, prompt, output, context)
        case ConfidenceExit(epsilon=epsilon):
            shares = _known(statistics.shares, epsilon, "shares of the exits at epsilon")
            begins = statistics.first.get(epsilon, shares)
            return _confidence(chain, shares, begins, prompt, output, context)
        case SpeculativeExit(exit=exit_, draft_exit=draft):
            right = _known(statistics.acceptance, (draft, exit_), "acceptance of drafts by (draft, target) exit")
            return _speculative(chain, policy, right, prompt, output, context)


def _fixed(chain: Chain, policy: FixedExit, prompt: float, output: float, context: float) -> Text:
    """Of a burst, the first tokens come together, and so do those of each round trip after."""
    first, step, last = chain.prefill(policy.exit, prompt), chain.step(policy.exit, context), chain.place(policy.exit)
    if not policy.burst:
        return Text(first, step, (policy.exit,), (Case(1.0, first.seconds, last),), (Case(1.0, step.seconds, last),))
    alone, together = chain.step(policy.exit, context, hops=False), policy.burst + 1
    later, further = max(0.0, output - together), max(1.0, output - 1)
    rounds_ = math.ceil(later / together)
    mean = chain.nothing().add(step, rounds_ / further)
    mean.add(alone, (later - rounds_) / further)
    mean.down = [size + FRAMING.token * (1 - rounds_ / further) for size in mean.down]
    more = min(policy.burst, output - 1)
    first = chain.nothing().add(first).add(alone, more)
    furthers = _in_rounds(rounds_ / further, mean.seconds, last)
    return Text(first, mean, (policy.exit,), (Case(1.0, first.seconds, last, more),), furthers)


def _in_rounds(share: float, mean_s: Number, last: int) -> tuple[Case, ...]:
    """Tokens that come together: one of them waits for all."""
    return Case(1 - share, 0.0, -1), Case(share, mean_s / share if share else 0.0, last)


def _confidence(
    chain: Chain, shares: Sequence[float], begins: Sequence[float], prompt: float, output: float, context: float
) -> Text:
    """The exit of each token is taken as drawn by its share, whatever came before; of the first one by `begins`."""
    depth = len(shares)
    reach, reach_first = ([sum(drawn[g:]) for g in range(depth)] for drawn in (shares, begins))
    first, step = chain.nothing(), chain.nothing()
    first_s, step_s = chain.request(first), chain.token(step)
    median_s, firsts, furthers = first_s, [], []
    for g in range(depth):
        first_s = first_s + chain.part(first, g + 1, prompt, 0.0, reach_first[g])
        median_s = first_s if reach_first[g] >= HALF else median_s
        step_s = step_s + chain.lagging(step, g + 1, reach[g], context)
        missed = (1 - reach_first[g]) * (1 - (1 - reach[g]) ** (output - 1))  # the prompt is read here by a later token
        if missed:
            chain.part(step, g + 1, prompt, 0.0, missed / max(1.0, output - 1))
        firsts.append(Case(begins[g], first_s, chain.place(g + 1)))
        furthers.append(Case(shares[g], step_s, chain.place(g + 1)))
    first.seconds = median_s
    return Text(first, step, tuple(range(1, depth + 1)), tuple(firsts), tuple(furthers))


def _speculative(
    chain: Chain, policy: SpeculativeExit, right: float, prompt: float, output: float, context: float
) -> Text:
    first, last = chain.prefill(policy.exit, prompt), chain.place(policy.exit)
    draft = chain.draft(policy.draft_exit, context)
    none, few = (chain.verification(policy.exit, policy.draft_exit, k, context) for k in (0.0, _FEW_DRAFTS))
    row_s = (few.seconds - none.seconds) / _FEW_DRAFTS
    costs = float(draft.seconds), float(none.seconds), max(float(row_s), 0.0)
    mean = rounds(*costs, right, policy.length, overlap=last > 0)
    whole = chain.nothing().add(chain.verification(policy.exit, policy.draft_exit, mean.drafts, context))
    whole.add(draft, mean.made)
    whole.seconds = mean.seconds
    unused = (mean.tokens - 1) / 2  # of the last round, in the mean
    times = (1 + unused / max(1.0, output - 1)) / mean.tokens
    step = chain.nothing().add(whole, times)
    chain.token(step)
    step.add(chain.reading(policy.draft_exit, prompt), 1 / max(1.0, output - 1))
    furthers = _in_rounds(min(times, 1.0), step.seconds, last)
    waited = (mean.seconds - costs[1] - costs[2] * mean.drafts) / max(costs[0], 1e-9)
    beside = 1 - min(1.0, waited / mean.made) if mean.made else 0.0
    exits = policy.draft_exit, policy.exit
    return Text(first, step, exits, (Case(1.0, first.seconds, last),), furthers, beside)


def _known(found: Mapping[K, V], key: K, what: str) -> V:
    if key not in found:
        known = ", ".join(str(k) for k in found) or "none"
        raise DeploymentError(f"the policy needs {what} {key}; the statistics have {known}")
    return found[key]
