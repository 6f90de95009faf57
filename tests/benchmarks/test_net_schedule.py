"""A link's schedule keeps its rate, its order and its word, for any traffic. No clock runs."""

import math
from itertools import accumulate, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.net.schedule import (
    GRAIN_S,
    HEADER_BYTES,
    LEAST_RTO_S,
    SEGMENT_BYTES,
    Capacity,
    Connection,
    Schedule,
    steady,
)

DELAY_S = 0.02
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
steps = st.lists(st.tuples(st.floats(0.001, 2), st.sampled_from([0, 0, 1500, 3000, 40_000])), min_size=1, max_size=8)


@st.composite
def capacities(draw: st.DrawFn) -> Capacity:
    given_steps = draw(steps.filter(lambda found: any(size for _, size in found)))
    times, sizes = zip(*given_steps, strict=True)
    return Capacity((0.0, *accumulate(times)), (0.0, *accumulate(map(float, sizes))))


traffic = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1500)), min_size=1, max_size=40)
"""Pauses and sizes."""


def sent(schedule: Schedule, packets: list[tuple[float, int]]) -> list[tuple[float, int, float]]:
    """When, how much, and when it arrives."""
    now = accumulate(pause for pause, _ in packets)
    return [(at, size, schedule.send(at, size).at_s) for at, (_, size) in zip(now, packets, strict=True)]


@patient
@given(capacities(), st.floats(0, 50), st.floats(1e-3, 1e6))
def test_a_capacity_and_its_inverse_agree(capacity: Capacity, time_s: float, carried: float) -> None:
    when_s = capacity.when(carried)
    assert capacity.by(when_s) == pytest.approx(carried, abs=1e-3, rel=1e-9)
    assert capacity.when(carried + 1) >= when_s
    if (done := capacity.by(time_s)) > 1:
        assert capacity.when(done) <= time_s + 1e-6


@patient
@given(capacities(), traffic, st.floats(0, 0.05))
def test_packets_keep_their_order_and_are_never_early(
    capacity: Capacity, packets: list[tuple[float, int]], jitter_s: float
) -> None:
    found = sent(Schedule(capacity, DELAY_S, jitter_s, 0, "seed"), packets)
    assert all(a[2] <= b[2] for a, b in pairwise(found))
    assert all(arrives_s >= at_s + DELAY_S - 1e-6 for at_s, _, arrives_s in found)


@patient
@given(capacities(), traffic)
def test_a_link_never_carries_more_than_it_can_and_idles_only_when_nothing_waits(
    capacity: Capacity, packets: list[tuple[float, int]]
) -> None:
    found = [
        (at, size, arrives - DELAY_S) for at, size, arrives in sent(Schedule(capacity, DELAY_S, 0, 0, ""), packets)
    ]
    for first in range(len(found)):
        for last in range(first, len(found)):
            carried = sum(size for _, size, _ in found[first : last + 1])
            can = capacity.by(found[last][2]) - capacity.by(found[first][0])
            assert carried <= can + 0.01  # the packets left between these times
    for (_, _, before_s), (at_s, size, left_s) in pairwise(found):
        begin_s = max(at_s, before_s)
        assert capacity.by(left_s) == pytest.approx(capacity.by(begin_s) + size, abs=0.01)


@patient
@given(traffic, st.floats(0, 0.05), st.floats(0, 1), st.integers(0, 9))
def test_a_seed_gives_one_history(packets: list[tuple[float, int]], jitter_s: float, loss: float, seed: int) -> None:
    one, same = (Schedule(steady(1e6), DELAY_S, jitter_s, loss, str(seed)) for _ in range(2))
    for at_s, size in zip(accumulate(p for p, _ in packets), (s for _, s in packets), strict=True):
        assert one.send(at_s, size) == same.send(at_s, size)


def test_other_seeds_give_other_losses_and_other_jitter() -> None:
    schedules = [Schedule(steady(1e9), 0, 0.01, 0.5, seed) for seed in "ab"]
    histories = [[schedule.send(i / 10, 100) for i in range(64)] for schedule in schedules]
    assert len({tuple(a.lost for a in history) for history in histories}) == 2
    assert len({tuple(a.at_s for a in history) for history in histories}) == 2


def test_jitter_is_the_weather_of_a_moment_whatever_was_sent_before() -> None:
    quiet, busy = (Schedule(steady(1e9), 0, 0.01, 0, "seed") for _ in range(2))
    for i in range(1000):
        busy.send(i / 1000, 1000)
    assert quiet.send(5.0, 1000) == busy.send(5.0, 1000)


def test_jitter_has_its_mean_and_losses_their_share() -> None:
    n, mean_s, share = 4000, 0.02, 0.1
    schedule = Schedule(steady(1e12), 0, mean_s, share, "seed")
    arrivals = [(i, schedule.send(i, 100)) for i in range(n)]
    jitter = sum(arrival.at_s - at for at, arrival in arrivals) / n
    assert abs(jitter - mean_s) < 5 * mean_s / math.sqrt(n)
    lost = sum(arrival.lost for _, arrival in arrivals)
    assert abs(lost - n * share) < 5 * math.sqrt(n * share * (1 - share))


def test_a_queue_frees_when_no_more_than_the_room_waits() -> None:
    schedule = Schedule(steady(8e6), 0, 0, 0, "")  # a byte each microsecond
    schedule.send(1.0, 1000)
    assert schedule.frees(1000) == pytest.approx(1.0)
    assert schedule.frees(400) == pytest.approx(1.0006)
    assert schedule.frees(0) == pytest.approx(1.001)


def test_a_connection_moves_full_segments_at_the_links_rate() -> None:
    size = 1_000_000
    parts = Connection(Schedule(steady(8e6), DELAY_S, 0, 0, ""), 2 * DELAY_S).write(0.0, size)
    assert sum(payload for payload, _ in parts) == size
    headers = HEADER_BYTES * math.ceil(size / SEGMENT_BYTES)
    assert parts[-1][1] == pytest.approx(DELAY_S + (size + headers) / 1e6)


@patient
@given(st.integers(1, 200_000), st.floats(1e6, 1e9))
def test_parts_of_a_write_are_all_of_it_in_order_and_apart(size: int, rate_bps: float) -> None:
    parts = Connection(Schedule(steady(rate_bps), DELAY_S, 0, 0, ""), 2 * DELAY_S).write(3.0, size)
    assert sum(payload for payload, _ in parts) == size
    assert all(a[1] < b[1] for a, b in pairwise(parts))
    whole_s = (size + HEADER_BYTES * math.ceil(size / SEGMENT_BYTES)) * 8 / rate_bps
    assert parts[-1][1] == pytest.approx(3.0 + DELAY_S + whole_s)
    assert len(parts) <= 1 + whole_s / GRAIN_S


class Losing(Schedule):
    """Loses the packets of these numbers, from 0."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(steady(1e12), DELAY_S, 0, 0, "")
        self.numbers = numbers
        self.count = 0

    def send(self, now_s: float, size: int):  # type: ignore[no-untyped-def]
        self.count += 1
        return super().send(now_s, size)._replace(lost=self.count - 1 in self.numbers)


def test_a_lost_segment_costs_a_round_trip_in_a_burst_and_a_timeout_at_its_end() -> None:
    rtt_s = 2 * DELAY_S
    burst = Connection(Losing(1), rtt_s).write(0.0, 8 * SEGMENT_BYTES)
    assert [size for size, _ in burst] == [SEGMENT_BYTES, 7 * SEGMENT_BYTES]  # what follows waits for it
    assert burst[1][1] == pytest.approx(DELAY_S + rtt_s, abs=1e-6)
    ((_, at_s),) = Connection(Losing(0), rtt_s).write(0.0, 100)
    assert at_s == pytest.approx(DELAY_S + rtt_s + LEAST_RTO_S, abs=1e-6)


def test_a_loss_holds_up_its_own_connection_only() -> None:
    schedule = Losing(0)
    one, other = Connection(schedule, 2 * DELAY_S), Connection(schedule, 2 * DELAY_S)
    ((_, late_s),) = one.write(0.0, 100)
    ((_, prompt_s),) = other.write(0.001, 100)
    ((_, after_s),) = one.write(0.002, 100)
    assert prompt_s == pytest.approx(0.001 + DELAY_S, abs=1e-6)
    assert after_s == late_s > LEAST_RTO_S


@pytest.mark.parametrize(
    ("times", "carried", "problem"),
    [
        ((0.0,), (0.0,), "two at least"),
        ((1.0, 2.0), (0.0, 1.0), "both from 0"),
        ((0.0, 1.0, 1.0), (0.0, 1.0, 2.0), "increase"),
        ((0.0, 1.0, 2.0), (0.0, 2.0, 1.0), "do not decrease"),
        ((0.0, 1.0), (0.0, 0.0), "more than 0"),
    ],
)
def test_what_no_link_can_be_is_refused(times: tuple[float, ...], carried: tuple[float, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Capacity(times, carried)
