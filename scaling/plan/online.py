"""Planning again while texts run: which policy and codec fit the links and the load of the moment, without flapping.

Where segments run stays as it is; what may change from one request to the next is who decides and how rows travel. All
of it is a pure function of the state and an observation. `scaling.plan.follow` makes observations of what the nodes say
of themselves, and tells the entry node the choice.

What holds is the median of the newest observations. The best choice is the quickest of those that keep the goals for
the first token and the next ones, or if none does, of those that miss the fewest. Another is taken only once it kept
more goals than the present one, or was better by `MARGIN`, for `PATIENCE` observations in a row, by the model; so noise
around a point where two are equal changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from statistics import median

from scaling.plan.cost import Machine, loaded
from scaling.plan.deployment import Deployment, Statistics
from scaling.plan.fleet import Goals, Link, Traffic
from scaling.plan.model import predict
from scaling.plan.peak import ALONE
from scaling.plan.percentile import peaks

MARGIN = 0.1
"""Of a text's time, by which another choice has to be better."""
PATIENCE = 3
NEWEST = 5
"""Observations whose median is believed: one bad moment is not."""


@dataclass(frozen=True)
class Observed:
    """The links between the places, and the load beyond the first, at one moment."""

    links: tuple[Link, ...]
    load: float = 1.0
    """How many times as long as alone forwards take on the nodes beyond the first."""


@dataclass(frozen=True)
class Online:
    """What is known and chosen. The first of `choices` is where it begins."""

    choices: tuple[Deployment, ...]
    """Of the same places."""
    machines: Mapping[str, Machine]
    prompt_tokens: float
    output_tokens: float
    statistics: Statistics
    prompt_cv: float = 1.0
    """Standard deviation of the prompts' lengths over their mean."""
    goals: Goals = field(default_factory=Goals)
    chosen: int = 0
    seen: tuple[Observed, ...] = ()
    """The newest observations."""
    rival: int = 0
    times: int = 0
    """Observations in a row for which the rival was better by the margin."""

    @property
    def deployment(self) -> Deployment:
        """What the next text should do."""
        return self.choices[self.chosen]


def observe(state: Online, seen: Observed) -> Online:
    """The state after an observation."""
    newest = (*state.seen, seen)[-NEWEST:]
    known = typical(newest)
    found = [expected(state, deployment, known) for deployment in state.choices]
    best, now = best_of(found), found[state.chosen]
    keeps_more = len(found[best].misses) < len(now.misses)
    if not keeps_more and found[best].text_s > now.text_s * (1 - MARGIN):
        return replace(state, seen=newest, rival=state.chosen, times=0)
    times = state.times + 1 if best == state.rival else 1
    if times < PATIENCE:
        return replace(state, seen=newest, rival=best, times=times)
    return replace(state, seen=newest, chosen=best, rival=best, times=0)


def typical(seen: Sequence[Observed]) -> Observed:
    """The median of several observations, number by number."""
    links = (
        Link(*(median(values) for values in zip(*map(astuple, same), strict=True)))
        for same in zip(*(one.links for one in seen), strict=True)
    )
    return Observed(tuple(links), median(one.load for one in seen))


def follow(state: Online, seen: Sequence[Observed]) -> list[int]:
    """The choice after each of several observations."""
    found = []
    for one in seen:
        state = observe(state, one)
        found.append(state.chosen)
    return found


@dataclass(frozen=True)
class Expected:
    """Of a text."""

    text_s: float
    """From the request to the last token, in the mean."""
    misses: tuple[str, ...]
    """Goals that it does not keep, as the fleet file has them."""


def best_of(found: Sequence[Expected]) -> int:
    """The quickest of those that keep the most goals."""
    return min(range(len(found)), key=lambda i: (len(found[i].misses), found[i].text_s))


def expected(state: Online, deployment: Deployment, known: Observed) -> Expected:
    """What a text takes under what is known of the links and the load."""
    machines = {
        place.tier: loaded(state.machines[place.tier], known.load if i else 1.0)
        for i, place in enumerate(deployment.places)
    }
    moment, goals = replace(deployment, links=known.links), state.goals
    found = predict(moment, machines, state.prompt_tokens, state.output_tokens, 1, state.statistics)
    traffic = Traffic(0.0, state.prompt_tokens, state.output_tokens, state.prompt_cv)
    own = deployment.places[0].tier
    (peak,) = peaks(own, traffic, goals.percentile, [(moment, found)], [[ALONE] * len(deployment.places)])
    limits = (("ttft_ms", peak.ttft_s, goals.ttft_s), ("tpot_ms", peak.tpot_s, goals.tpot_s))
    misses = tuple(f"goals.{name}" for name, has, most in limits if most is not None and has > most)
    return Expected(peak.ttft_mean_s + (state.output_tokens - 1) * peak.tpot_mean_s, misses)
