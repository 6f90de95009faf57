"""The length of a speculation, in simulated time: rounds as `relay.node.speculate` makes them, without nodes."""

import random
from collections.abc import Callable, Sequence

import pytest

from relay.pace import MOST_DRAFTS, Costs, Pace, best, expected, rate

ROUNDS = 1500
WARM = 200
"""Rounds before tokens are counted: what is learnt meanwhile is not the question."""
DRAFT_MS, ROW_MS = 6.0, 1.5
GoesOn = Callable[[Sequence[float]], bool]


def simulate(costs: Costs, draw: Callable[[], float], length: int | None, pace: Pace, rounds: int = ROUNDS) -> float:
    """Tokens per millisecond. Each draft is right with the probability that is its confidence, drawn by `draw`."""
    goes_on: GoesOn = pace.pays if length is None else lambda drafts: len(drafts) < length
    chance = random.Random(7)
    drafts: list[float] = []
    tokens, now, counted_from = 0, 0.0, 0.0
    for number in range(rounds):
        if number == WARM:
            tokens, counted_from = 0, now
        while len(drafts) < MOST_DRAFTS and goes_on(drafts):
            drafts.append(draw())
            now += costs.draft_ms
            pace.drafted(costs.draft_ms)
        sent = min(len(drafts), MOST_DRAFTS)
        flight = costs.verify_ms + costs.row_ms * sent
        elapsed = 0.0
        while elapsed + costs.draft_ms <= flight and pace.goes_ahead(elapsed, sent, len(drafts) - sent, length):
            drafts.append(draw())
            elapsed += costs.draft_ms
        now += flight
        pace.verified(sent, flight)
        for decided, confidence in enumerate([*drafts[: sent + 1], 0.0][: sent + 1]):
            right = decided < len(drafts) and chance.random() < confidence
            if decided < len(drafts):
                pace.checked(confidence, right)
            tokens += 1
            if not right:
                drafts = []
                break
        else:
            drafts = drafts[sent + 1 :]
    return tokens / (now - counted_from)


@pytest.mark.parametrize("row_ms", [ROW_MS, 10.0, 40.0])
@pytest.mark.parametrize("round_trip_ms", [5, 30, 100])
@pytest.mark.parametrize("right", [0.3, 0.55, 0.75, 0.9])
@pytest.mark.parametrize("alike", [True, False])
def test_adaptive_lengths_are_within_5_percent_of_the_best(
    row_ms: float, round_trip_ms: int, right: float, alike: bool
) -> None:
    costs = Costs(DRAFT_MS, round_trip_ms + 8.0, row_ms)

    chance = random.Random(3)

    def draw() -> float:
        return right if alike else chance.betavariate(2 * right, 2 * (1 - right))

    assert simulate(costs, draw, None, Pace()) >= 0.95 * best(costs, right).rate


@pytest.mark.parametrize("right", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("round_trip_ms", [5, 30, 100])
def test_the_rate_of_a_plan_is_what_a_simulation_reaches(right: float, round_trip_ms: int) -> None:
    costs = Costs(DRAFT_MS, round_trip_ms + 8.0, ROW_MS)
    for length in (0, 2, 5, 9):
        plan = rate(costs, right, length, length)
        measured = Pace()
        measured.drafted(costs.draft_ms)
        measured.verified(length, costs.verify_ms + costs.row_ms * length)
        found = simulate(costs, lambda: right, length, measured)
        assert plan.rate == pytest.approx(found, rel=0.03)


def test_the_best_lengths_are_the_best_of_all() -> None:
    costs = Costs(5.0, 60.0, 1.0)
    for right in (0.0, 0.2, 0.5, 0.8, 0.95):
        every = (rate(costs, right, fresh, ready) for fresh in range(17) for ready in range(17))
        assert best(costs, right, 16).rate >= max(plan.rate for plan in every) * (1 - 1e-9)
        assert best(costs, right).rate >= 1 / costs.verify_ms * (1 - 1e-9), "no slower than a round trip per token"
    assert best(costs, 0.0).fresh == 0 == best(Costs(50.0, 1.0, 1.0), 0.5).fresh


def test_a_round_decides_what_leviathan_et_al_say() -> None:
    assert expected(0.5, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert (expected(0.0, 9), expected(1.0, 9)) == (1, 10)


def test_costs_are_found_from_rounds_of_different_lengths() -> None:
    pace = Pace()
    assert pace.costs is None and pace.pays([]) and pace.goes_ahead(1e9, 3, 9)
    pace.drafted(4.0)
    for round_ in range(200):
        length = round_ % 9
        pace.verified(length, 30.0 + 2.0 * length)
    costs = pace.costs
    assert costs is not None
    assert (costs.verify_ms, costs.row_ms) == (pytest.approx(30.0, abs=3), pytest.approx(2.0, abs=0.7))
