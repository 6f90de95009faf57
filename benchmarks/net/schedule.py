"""When what is sent over a link arrives: bytes and a time in, a time out. Pure, no clock and no I/O.

A link's direction is a queue before a bottleneck, then a delay. The bottleneck is its `Capacity`: cumulative bytes over
time, a straight line for a steady rate, any for a recorded one. A packet's last byte leaves when the capacity has grown
by all that is queued; what the link could have carried while nothing was queued is lost (a token bucket of no depth).
Then come the delay and the jitter, which keeps the order of packets, as the radio links that cause it do.

Noise is counter-based, a hash of the seed and a number: the jitter's of the time, in slots of `JITTER_SLOT_S`, the
losses' of the packet. So jitter is the weather of that moment, whatever was sent before; and packets of one burst share
theirs, where a draw for each would give a long burst the largest of many.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

JITTER_SLOT_S = 0.01
"""How long jitter stays the same: about a retransmission of LTE's radio (HARQ, 8 ms)."""
SEGMENT_BYTES = 1448
"""Payload of a full TCP segment, with timestamps, in an Ethernet frame of 1500."""
HEADER_BYTES = 52
"""IPv4 and TCP headers of a segment."""
LEAST_RTO_S = 0.2
"""Linux's least retransmission timeout, beside the round trip."""
FEWEST_DUPLICATES = 3
"""Segments after a lost one that make TCP send it again at once (RFC 5681, fast retransmit)."""
GRAIN_S = 0.0002
"""Segments that arrive within it are handed on together, with the last of them."""
_ROUNDING_BYTES = 1e-6


@dataclass(frozen=True)
class Capacity:
    """The bytes that a link can carry, cumulative and piecewise linear over one period, after which it repeats."""

    times_s: tuple[float, ...]
    """Increasing, from 0; the last is the period."""
    carried: tuple[float, ...]
    """Bytes up to each time: never decreasing, from 0, not 0 at the end."""

    def __post_init__(self) -> None:
        times, carried = self.times_s, self.carried
        if len(times) != len(carried) or len(times) < 2 or times[0] != 0 or carried[0] != 0:
            raise ValueError("a capacity needs as many times as bytes, two at least, both from 0")
        if any(b <= a for a, b in pairwise(times)):
            raise ValueError("the times of a capacity increase")
        if any(b < a for a, b in pairwise(carried)) or carried[-1] <= 0:
            raise ValueError("the bytes of a capacity do not decrease, and are more than 0 at the end")

    @property
    def mean_bps(self) -> float:
        return 8 * self.carried[-1] / self.times_s[-1]

    def by(self, time_s: float) -> float:
        """Bytes that the link could have carried by then."""
        turns, rest = divmod(time_s, self.times_s[-1])
        i = bisect_right(self.times_s, rest)
        (t0, t1), (c0, c1) = self.times_s[i - 1 : i + 1], self.carried[i - 1 : i + 1]
        return turns * self.carried[-1] + c0 + (c1 - c0) * (rest - t0) / (t1 - t0)

    def when(self, carried: float) -> float:
        """The earliest time by which it could have carried so many bytes, more than 0."""
        turns, rest = divmod(carried - _ROUNDING_BYTES, self.carried[-1])
        i = max(1, bisect_left(self.carried, rest))
        (t0, t1), (c0, c1) = self.times_s[i - 1 : i + 1], self.carried[i - 1 : i + 1]
        return turns * self.times_s[-1] + t0 + (t1 - t0) * (rest - c0) / (c1 - c0 or 1)


def steady(rate_bps: float) -> Capacity:
    """A rate that never changes."""
    return Capacity((0.0, 1.0), (0.0, rate_bps / 8))


class Arrival(NamedTuple):
    """A packet's end of the way."""

    at_s: float
    lost: bool
    """It would have arrived then, and does not."""


class Schedule:
    """One direction of a link. Times are seconds from the link's beginning; calls come in the order of their times."""

    def __init__(self, capacity: Capacity, delay_s: float, jitter_s: float, loss: float, seed: str) -> None:
        """`jitter_s` is the mean of an exponential beyond the delay; `loss` the share of packets that are lost."""
        self._capacity = capacity
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._loss = loss
        self._seed = blake2b(seed.encode(), digest_size=16).digest()
        self._served = 0.0
        """The capacity's bytes by the time that all that was sent has left."""
        self._newest_s = 0.0
        self._packets = 0

    def frees(self, room: float) -> float:
        """The time by which no more than `room` bytes wait for the bottleneck."""
        return self._capacity.when(self._served - room) if self._served > room else 0.0

    def send(self, now_s: float, size: int) -> Arrival:
        """A packet of `size` bytes, headers included, begins its way."""
        self._served = max(self._served, self._capacity.by(now_s)) + size
        left_s = self._capacity.when(self._served)
        jitter_s = -self._jitter_s * math.log(1 - self._draw(b"jitter", int(left_s / JITTER_SLOT_S)))
        self._newest_s = max(self._newest_s, left_s + self._delay_s + jitter_s)
        self._packets += 1
        return Arrival(self._newest_s, self._draw(b"loss", self._packets) < self._loss)

    def _draw(self, purpose: bytes, number: int) -> float:
        """Uniform from 0 to below 1."""
        digest = blake2b(number.to_bytes(8, "little"), digest_size=7, key=self._seed, person=purpose).digest()
        return (int.from_bytes(digest, "little") >> 3) / (1 << 53)


class Connection:
    """One direction of a TCP connection over a link, as its receiver's application sees it.

    A lost segment is sent again, which takes one round trip if enough follow it in the same write to tell the sender,
    else the retransmission timeout; what follows waits for it. The second attempt arrives. There is no congestion
    window: it stands for a connection that has been in use. `namespaces` has the kernel's own.
    """

    def __init__(self, schedule: Schedule, rtt_s: float) -> None:
        self._schedule = schedule
        self._rtt_s = rtt_s
        self._newest_s = 0.0

    def write(self, now_s: float, size: int) -> list[tuple[int, float]]:
        """So many bytes are written: parts of them, in order, and the time at which each can be read."""
        segments = range(0, size, SEGMENT_BYTES)
        parts: list[tuple[int, float]] = []
        first_s = -math.inf
        for number, start in enumerate(segments, 1):
            payload = min(SEGMENT_BYTES, size - start)
            at_s, lost = self._schedule.send(now_s, payload + HEADER_BYTES)
            if lost:
                told = len(segments) - number >= FEWEST_DUPLICATES
                at_s += self._rtt_s if told else self._rtt_s + LEAST_RTO_S
            at_s = self._newest_s = max(self._newest_s, at_s)
            if at_s - first_s > GRAIN_S:
                parts.append((payload, at_s))
                first_s = at_s
            else:
                parts[-1] = (parts[-1][0] + payload, at_s)
        return parts
