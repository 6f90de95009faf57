"""Turns of several engines on one machine, one after the other, so that what the machine does meets all of them."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.child import Child, processor_s

SETTLE_S = 0.2
"""Before each turn: pools whose threads spin for a while after their work have stopped by then."""
BURST_S = 60.0
"""Where several share a machine, none holds it for longer than a round beyond this."""


@dataclass
class Seat:
    """An engine that takes turns, and what they took."""

    label: str
    child: Child
    prefill_s: list[float] = field(default_factory=list)
    """Per token of the prompt, round by round."""
    decode_s: list[float] = field(default_factory=list)
    """Per token, round by round."""
    idle_s: float = 0.0
    """Processor time that it used in the turns of others."""
    waited_s: float = 0.0
    """How long these were."""

    def take(self, ids: Sequence[int], tokens: int) -> None:
        """One turn."""
        reply = self.child.ask("turn", ids=ids, tokens=tokens)
        self.prefill_s.append(reply["prefill_s"] / len(ids))
        self.decode_s.append(reply["decode_s"] / tokens)

    def figures(self) -> dict[str, float]:
        """Medians over the rounds; and the share of a core that it used while it was not its turn."""
        return {
            "prefill_tps": round(1 / median(self.prefill_s), 1),
            "decode_tps": round(1 / median(self.decode_s), 2),
            "decode_ms": round(median(self.decode_s) * 1e3, 3),
            "idle_cpu_share": round(self.idle_s / self.waited_s, 4) if self.waited_s else 0.0,
        }


def play(
    seats: Sequence[Seat],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    probe: Callable[[], Any],
    alone: Callable[[], AbstractContextManager[None]],
) -> list[float]:
    """A round for each prompt, after one to warm up: every seat takes a turn, each round another one first.

    `probe` is called in every round; `alone` is held while rounds are played, for `BURST_S` or a little more at a time.
    Gives, for each round, the share of the machine's processors that other processes used: near 0 where times count.
    """
    disturbed: list[float] = []
    rounds = [prompts[0], *prompts]
    number = 0
    while number < len(rounds):
        with alone():
            started = time.monotonic()
            while number < len(rounds) and time.monotonic() - started < BURST_S:
                probe()
                first = number % len(seats)
                before = _others_s(seats)
                for seat in (*seats[first:], *seats[:first]):
                    _turn(seat, seats, rounds[number], tokens)
                after = _others_s(seats)
                disturbed.append((after[0] - before[0]) / (after[1] - before[1]))
                if number == 0:
                    for seat in seats:
                        seat.prefill_s.clear()
                        seat.decode_s.clear()
                number += 1
    return disturbed[1:]


def _others_s(seats: Sequence[Seat]) -> tuple[float, float]:
    """Seconds of the processors' time that processes without a seat have used, and of all their time, since the start.

    From Linux's `/proc/stat`, in steps of 10 ms: user, nice, system, idle, waiting, and so on.
    """
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    whole = sum(ticks[:8]) / os.sysconf("SC_CLK_TCK")
    idle = sum(ticks[3:5]) / os.sysconf("SC_CLK_TCK")
    return whole - idle - sum(processor_s(seat.child.pid) for seat in seats), whole


def _turn(seat: Seat, seats: Sequence[Seat], ids: Sequence[int], tokens: int) -> None:
    """A turn of one seat, in which the others' processor time is watched."""
    time.sleep(SETTLE_S)
    others = [other for other in seats if other is not seat]
    started = time.perf_counter()
    before = [processor_s(other.child.pid) for other in others]
    seat.take(ids, tokens)
    for other, spent in zip(others, before, strict=True):
        other.idle_s += processor_s(other.child.pid) - spent
        other.waited_s += time.perf_counter() - started


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median over the rounds of one time over another of the same round."""
    return median(a / b for a, b in zip(over, under, strict=True))
