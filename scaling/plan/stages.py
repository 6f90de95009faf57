"""What each tier of a plan adds to its sums (`sums.Stage`), and what stands behind that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from family.spec import FamilySpec
from scaling.plan.fleet import Fleet, Link
from scaling.plan.money import TierCost, rates, tier_cost
from scaling.plan.queueing import BUSY
from scaling.plan.sums import Stage
from scaling.plan.tiers import Held, Part, held, parts_of
from scaling.plan.wire import FRAMING, reply_s, reply_var, request_s, row_bytes, transfer_s
from scaling.runs import FloatArray

LOADS = (BUSY, BUSY / 2)
"""Up to which a shared machine may be loaded at the peak: with the first the fewest machines, with the other less
waiting."""
FINER = (BUSY, 0.64, 0.59, 0.54, 0.5, 0.45, 0.41, 0.38, BUSY / 2, 0.25, 0.17, 0.1)
"""The same where times are limited or are to be least: a tier that is a little too slow need not be doubled, one that
is faster and needs fewer machines is not left with too few or too many, and where texts wait too long it takes more."""
CODEC = "f32"
"""How rows travel. A plan for a bundle may choose another, by the quality that was measured."""


@dataclass(frozen=True)
class Hop:
    """What the way to a tier takes; zeros on the users' own machines."""

    answer_s: float
    """There and back, without the rows."""
    prompt_s: float
    """The rows of one part of a prompt."""
    row_s: float
    """One row."""


@dataclass(frozen=True, eq=False)
class Option:
    """One way of running a tier's part: a precision and a load."""

    part: Part
    stage: Stage
    held: Held
    hop: Hop


class Stages:
    """The stages of families on one trunk; those of one tier that several plans share are made once."""

    def __init__(self, fleet: Fleet, spec: FamilySpec, tied: bool) -> None:
        self._fleet, self._spec, self._tied = fleet, spec, tied
        self._made: dict[object, tuple[Option, ...]] = {}

    def of(self, used: Sequence[int]) -> list[tuple[Option, ...]]:
        """The options of each tier, of a family whose exits stand at the ends of the tiers `used`."""
        shares = shares_of(self._fleet, used)
        arrives = np.cumsum(shares[::-1])[::-1]
        found = []
        for i, at in enumerate(used):
            part = Part(at, used[i - 1] if i else None, i == len(used) - 1, float(shares[i]), float(arrives[i]))
            asked = part.share > 0 or any(name in self._fleet.goals.loss for name in _answered(self._fleet, used, i))
            if (part, asked) not in self._made:
                self._made[part, asked] = tuple(self._options(part, asked))
            found.append(self._made[part, asked])
        return found

    def _options(self, part: Part, asked: bool) -> Iterator[Option]:
        goals = self._fleet.goals
        timed = goals.ttft_s is not None or goals.tpot_s is not None or self._fleet.objective == "latency"
        for precision in self._fleet.tiers[part.tier].precisions:
            yield from options(self._fleet, self._spec, self._tied, part, precision, FINER if timed else LOADS, asked)


def options(
    fleet: Fleet,
    spec: FamilySpec,
    tied: bool,
    part: Part,
    precision: str,
    loads: Sequence[float],
    asked: bool = True,
) -> Iterator[Option]:
    """Ways of running a tier's part of a family (`tiers.held`)."""
    hop = hop_of(fleet, part, spec.d_model)
    for behind in held(fleet, spec, tied, part, precision, loads):
        yield Option(part, _stage(fleet, part, asked, behind, hop), behind, hop)


def _stage(fleet: Fleet, part: Part, asked: bool, behind: Held, hop: Hop) -> Stage:
    parts = parts_of(fleet.traffic.prompt_tokens)
    jitter = float(reply_var(way(fleet, part.below, part.tier)))
    rows = fleet.traffic.prompt_cv * hop.prompt_s
    possible = (behind.possible > 0) & (link_load(fleet, part, hop) < 1)
    spent = spent_on(fleet, part, np.where(possible, behind.machines, 0.0), behind.busy)
    inside = part.below is not None  # a token's way from the users to the first tier and back is a stream's
    return Stage(
        share=part.share,
        asked=asked,
        ttft=behind.prefill_s / parts + hop.prompt_s + hop.answer_s,
        slowest=np.maximum(behind.prefill_s / parts, hop.prompt_s),
        tpot=behind.step_s + (hop.row_s + hop.answer_s if inside else 0.0),
        ttft_var=behind.prefill_var + jitter,
        tpot_var=behind.step_var + (jitter if inside else 0.0),
        length=behind.length_s / parts + rows,
        own_ttft=behind.exit_ttft_s,
        own_tpot=behind.exit_tpot_s,
        cost=np.asarray(spent.per_hour),
        power=np.asarray(spent.power_w),
        possible=possible,
    )


def hop_of(fleet: Fleet, part: Part, d_model: int) -> Hop:
    """The way to a tier from the one below it; from the users go a prompt's ids, and tokens come as a stream."""
    link, prompt = way(fleet, part.below, part.tier), fleet.traffic.prompt_tokens
    if part.below is None:
        return Hop(float(request_s(link, prompt)), 0.0, 0.0)
    size = row_bytes(CODEC, d_model)
    rows, row = (transfer_s(bytes_ + FRAMING.up, link.up_bps) for bytes_ in (size * prompt / parts_of(prompt), size))
    return Hop(float(reply_s(link)), float(rows), float(row))


def link_load(fleet: Fleet, part: Part, hop: Hop) -> float:
    """Share of the time at the peak in which rows are on the way from a machine below, all there are taking part."""
    below = None if part.below is None else fleet.tiers[part.below].count
    if below is None:
        return 0.0
    traffic = fleet.traffic
    each = hop.prompt_s * parts_of(traffic.prompt_tokens) + (traffic.output_tokens - 1) * hop.row_s
    return traffic.requests_per_second * traffic.peak * part.arrives / below * each


def shares_of(fleet: Fleet, used: Sequence[int]) -> FloatArray:
    """Of requests, decided at each used tier (m,): `answering` says whose."""
    shares = np.zeros(len(used))
    for tier, share in enumerate(fleet.decided):
        shares[answering(used, tier)] += share
    return shares


def answering(used: Sequence[int], tier: int) -> int:
    """Which used tier answers the requests that are meant for a tier: itself, or the next one up that is used."""
    return next((i for i, at in enumerate(used) if at >= tier), len(used) - 1)


def spent_on(fleet: Fleet, part: Part, machines: FloatArray, busy: FloatArray) -> TierCost:
    """Money and energy of a tier that is busy so much, in the mean of the day.

    The users' own machines are there and on anyway: they cost what the fleet says, or nothing, and draw what they
    compute with.
    """
    tier = fleet.tiers[part.tier]
    price = tier.price_per_hour if part.shared or tier.price_per_hour else 0.0
    return tier_cost(rates(tier.hardware, price), machines, busy, 1.0 if part.shared else 0.0)


def _answered(fleet: Fleet, used: Sequence[int], i: int) -> list[str]:
    """The tiers whose requests a used tier answers."""
    return [tier.name for at, tier in enumerate(fleet.tiers) if answering(used, at) == i]


def way(fleet: Fleet, below: int | None, at: int) -> Link:
    """The links between a tier and one below it, or the users, as one."""
    links = fleet.links[below or 0 : at]
    if not links:
        return Link(0.0, np.inf, np.inf)
    return replace(
        links[0],
        rtt_s=sum(link.rtt_s for link in links),
        up_bps=min(link.up_bps for link in links),
        down_bps=min(link.down_bps for link in links),
        jitter_s=float(np.sqrt(sum(link.jitter_s**2 for link in links))),
        loss=1 - float(np.prod([1 - link.loss for link in links])),
    )
