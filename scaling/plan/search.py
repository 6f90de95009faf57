"""Before training: every trunk, every choice of tiers, every placement, judged by the law of exits.

For each trunk and each set of tiers the placements that may be best are found once (`scaling.plan.placement`), without
the law. The law then gives each exit's loss at its θ and in every draw of its bootstrap, so that the best plan of each
draw is exact too, and how often an exit layer is chosen says how sure the choice is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from scaling.plan.exitlaw import ExitLaw
from scaling.plan.fleet import Fleet, Objective
from scaling.plan.placement import Expected, Placements, place
from scaling.plan.shapes import Made, make, trunks
from scaling.plan.stages import Option, Stages, answering, shares_of
from scaling.plan.sums import Limits, Stage
from scaling.plan.tiers import Held, parts_of
from scaling.runs import FloatArray, IntArray

DRAWS = 200
"""Of the law's bootstrap, for how often a layer is chosen; intervals of losses take all of them."""
TIE = 1e-9
"""Relative difference below which plans are equal and the better losses decide."""


@dataclass(frozen=True, eq=False)
class Group:
    """Plans that differ in nothing but the layers of their exits."""

    used: tuple[int, ...]
    """Tiers that have layers, by their position in the fleet."""
    made: Made
    shares: FloatArray
    """Of requests, decided at each exit (m,)."""
    ceilings: FloatArray
    """Most loss of each exit (m,); infinite where there is no goal."""
    options: tuple[tuple[Option, ...], ...]
    """Of each used tier; `placements.options` says which."""
    placements: Placements
    losses: FloatArray
    """Of each exit at θ (P, m), nats per token."""

    @property
    def quality(self) -> FloatArray:
        """Mean loss over requests (P,)."""
        mean: FloatArray = self.losses @ self.shares
        return mean

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which plans keep the loss ceilings (P,)."""
        return np.asarray((self.losses <= self.ceilings).all(axis=1))

    def held(self, what: Callable[[Held], FloatArray]) -> FloatArray:
        """Something that stands behind each tier, of every placement (P, m)."""
        places = self.placements
        spans, found = np.diff(places.layers, axis=1, prepend=0), np.zeros(places.layers.shape)
        for i, options in enumerate(self.options):
            values = np.stack([what(option.held) for option in options])
            found[:, i] = values[places.options[:, i], spans[:, i] - 1]
        return found

    def score(self, objective: Objective) -> FloatArray:
        """What is to be small (P,)."""
        return self.quality if objective == "quality" else _fixed(self, objective)


@dataclass(frozen=True)
class Choice:
    """One plan: a group and which of its placements."""

    group: int
    index: int


@dataclass(frozen=True, eq=False)
class Found:
    """Everything a search has: groups, and the best plan of each draw."""

    groups: tuple[Group, ...]
    per_draw: tuple[Choice | None, ...]
    """None where no plan of the draw keeps the loss ceilings."""

    @property
    def candidates(self) -> int:
        """Plans that keep everything but the loss ceilings."""
        return sum(len(group.placements) for group in self.groups)


def limits_of(fleet: Fleet) -> Limits:
    """The fleet's goals as limits of a placement.

    Jitter is that of two ways, each with an exponential tail, as in `scaling.plan.model`. A percentile below the mean's
    own is the mean: what strays less must not count as slower.
    """
    goals = fleet.goals
    return Limits(
        ttft=np.inf if goals.ttft_s is None else goals.ttft_s,
        tpot=np.inf if goals.tpot_s is None else goals.tpot_s,
        cost=np.inf if goals.budget_per_hour is None else goals.budget_per_hour,
        normal=max(float((gamma.ppf(goals.percentile / 100, 2) - 2) / np.sqrt(2)), 0.0),
        parts=parts_of(fleet.traffic.prompt_tokens),
        prompt_cv=fleet.traffic.prompt_cv,
    )


@dataclass(frozen=True)
class Question:
    """What alone is asked for, where a search need not find the best plan of everything."""

    least: str
    """Of `sums.COLUMNS`."""
    tier: int | None = None
    """Whose `what` is watched."""
    what: Callable[[Held], FloatArray] | None = None

    def of(self, option: Option) -> Stage:
        """The stage of an option, with what is watched."""
        if self.what is None or option.part.tier != self.tier:
            return option.stage
        return replace(option.stage, watched=self.what(option.held))


def groups(
    fleet: Fleet,
    law: ExitLaw,
    limits: Limits,
    uses: Sequence[tuple[int, ...]] | None = None,
    question: Question | None = None,
) -> Iterator[Group]:
    """Every trunk with every choice of tiers (or of `uses`) that has a placement within the limits.

    With a question only what the law expects at its θ counts, and only what answers the question is found.
    """
    for trunk in trunks(fleet.training, law):
        made_of = {m: make(trunk, m, fleet.training, law) for m in range(1, min(len(fleet.tiers), trunk.n_layers) + 1)}
        tiers = Stages(fleet, made_of[min(2, max(made_of))].spec, trunk.tied)
        for m, made in made_of.items():
            if made.d < 1:
                continue
            drawn = loss_table(law, law.theta if question else np.concatenate([law.theta, drawn_of(law)]), made)
            for used in combinations(range(len(fleet.tiers)), m) if uses is None else uses:
                if len(used) != m:
                    continue
                most = ceilings(fleet, used)
                expected = _expected(drawn, most, question)
                if (expected.least > trunk.n_layers).any():
                    continue
                found = tiers.of(used)
                stages = [[question.of(option) if question else option.stage for option in tier] for tier in found]
                placements = place(stages, trunk.n_layers, limits, expected, question.least if question else None)
                if not len(placements):
                    continue
                losses = drawn[0][placements.layers - 1]
                yield Group(used, made, shares_of(fleet, used), most, tuple(found), placements, losses)


def _expected(drawn: FloatArray, most: FloatArray, question: Question | None) -> Expected:
    """Of losses (1 + S, L) at θ and in draws: which layers the ceilings need, and the draws that differ most."""
    need = 1 + (drawn[:, :, None] > most).sum(axis=1)  # losses fall with depth
    few = drawn[:1]
    if question is None:
        middle = drawn[:, drawn.shape[1] // 2]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            bend = np.nan_to_num((middle - drawn[:, -1]) / (drawn[:, 0] - drawn[:, -1]))
        few = drawn[[0, int(bend.argmin()), int(bend.argmax())]]
    elif question.least != "quality":
        few = drawn[:0]
    return Expected(few, need.min(axis=0), np.minimum(need.max(axis=0), drawn.shape[1]))


def drawn_of(law: ExitLaw) -> FloatArray:
    """The draws that choose a plan each."""
    return law.draws[:: max(1, len(law.draws) // DRAWS)][:DRAWS]


def loss_table(law: ExitLaw, theta: FloatArray, made: Made) -> FloatArray:
    """The loss of an exit after each layer, (S, L)."""
    return law.losses(theta, made.n, made.d, made.granularity, made.depths, made.sizes)


def ceilings(fleet: Fleet, used: Sequence[int]) -> FloatArray:
    """Most loss of each used tier: its own goal, and those of the unused tiers whose requests it answers."""
    found = np.full(len(used), np.inf)
    for tier, named in enumerate(fleet.tiers):
        if named.name in fleet.goals.loss:
            i = answering(used, tier)
            found[i] = min(found[i], fleet.goals.loss[named.name])
    return found


def search(fleet: Fleet, law: ExitLaw, limits: Limits | None = None) -> Found:
    """All plans that may be best, and the best one of each draw of the law."""
    found = tuple(groups(fleet, law, limits or limits_of(fleet)))
    objective: Objective = "quality" if fleet.objective == "pareto" else fleet.objective
    return Found(found, tuple(_per_draw(found, law, objective)))


def best(found: Found, objective: Objective) -> Choice | None:
    """The best plan at the law's θ; of equal ones that of the least loss. None if none keeps the loss ceilings."""
    choices = ranked(found, objective)
    return choices[0] if choices else None


def ranked(found: Found, objective: Objective) -> list[Choice]:
    """The best plan of every group, best first."""
    rows = []
    for number, group in enumerate(found.groups):
        kept = np.flatnonzero(group.kept)
        if len(kept):
            order = np.lexsort(
                (group.placements.power[kept], group.quality[kept], _rounded(group.score(objective)[kept]))
            )
            at = kept[order[0]]
            key = (_rounded(group.score(objective)[at]), group.quality[at], group.placements.power[at])
            rows.append((key, Choice(number, int(at))))
    return [choice for _, choice in sorted(rows, key=lambda row: row[0])]


def _rounded(value: FloatArray) -> FloatArray:
    """To nine digits, so that equal plans compare equal."""
    with np.errstate(divide="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(value))) - 9)
    return np.where(value == 0, 0.0, np.round(value / np.where(value == 0, 1.0, unit)) * unit)


def _fixed(group: Group, objective: Objective) -> FloatArray:
    """What of a plan does not depend on the law."""
    sums = {"cost": group.placements.cost, "latency": group.placements.latency, "energy": group.placements.power}
    return sums[objective]


def _per_draw(found: Sequence[Group], law: ExitLaw, objective: Objective) -> list[Choice | None]:
    theta = drawn_of(law)
    score = np.full(len(theta), np.inf)
    loss = np.full(len(theta), np.inf)
    group_of, index = np.full(len(theta), -1), np.zeros(len(theta), np.int64)
    for number, group in enumerate(found):
        losses = loss_table(law, theta, group.made)[:, group.placements.layers - 1]  # (S, P, m)
        quality = losses @ group.shares
        kept = (losses <= group.ceilings).all(axis=-1)
        own = quality if objective == "quality" else np.broadcast_to(_fixed(group, objective), quality.shape)
        least = np.where(kept, own, np.inf)
        at = _first_least(least, quality)
        rows = np.arange(len(theta))
        mine, my_loss = least[rows, at], quality[rows, at]
        better = (mine < score * (1 - TIE)) | (np.isfinite(mine) & (mine <= score * (1 + TIE)) & (my_loss < loss))
        score, loss = np.where(better, mine, score), np.where(better, my_loss, loss)
        group_of, index = np.where(better, number, group_of), np.where(better, at, index)
    return [Choice(int(g), int(i)) if g >= 0 else None for g, i in zip(group_of, index, strict=True)]


def _first_least(value: FloatArray, quality: FloatArray) -> IntArray:
    """Column (S,) of the least value of each row; of equal ones that of the least loss."""
    least = value.min(axis=1, keepdims=True)
    equal = value <= least * (1 + TIE)
    at: IntArray = np.where(equal, quality, np.inf).argmin(axis=1)
    return at
