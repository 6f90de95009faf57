"""Planning again while texts run: which policy and codec fit the links and the load of the moment, without flapping.

Where segments run stays as it is; what may change from one request to the next is who decides and how rows travel. All
of it is a pure function of the state and an observation. `scaling.plan.follow` makes observations of what the nodes say
of themselves, and tells the entry node the choice.

What holds is the median of the newest observations. Another choice is taken only once it was better than the present
one by `MARGIN` for `PATIENCE` observations in a row, by the model; so noise around a point where two are equal changes
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import median

from scaling.plan.cost import Machine, loaded
from scaling.plan.deployment import Deployment, Statistics
from scaling.plan.fleet import Link
from scaling.plan.model import predict

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
    times_s = [text_s(state, deployment, known) for deployment in state.choices]
    best = min(range(len(times_s)), key=times_s.__getitem__)
    if times_s[best] > times_s[state.chosen] * (1 - MARGIN):
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


def text_s(state: Online, deployment: Deployment, known: Observed) -> float:
    """A whole text's time under what is known of the links and the load."""
    machines = {
        place.tier: loaded(state.machines[place.tier], known.load if i else 1.0)
        for i, place in enumerate(deployment.places)
    }
    moment = replace(deployment, links=known.links)
    found = predict(moment, machines, state.prompt_tokens, state.output_tokens, 1, state.statistics)
    return float(found.ttft_s) + (state.output_tokens - 1) * float(found.tpot_s)
