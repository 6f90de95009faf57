"""Links by name: what people have, with where the figures are from, and recorded ones.

A recorded link repeats its trace from the beginning. Traces have rates only; the round trip beside them is the one that
the paper used which made them known, or an assumption, as the link's `source` says.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.net.schedule import SEGMENT_BYTES, Capacity, Schedule, steady
from family.errors import FamilialError

QUEUE_S = 0.1
"""What the queue before the bottleneck holds, at the mean rate."""
LEAST_QUEUE_BYTES = 64_000
PACKET_BYTES = 1500
"""What one line of a Mahimahi trace lets pass."""
MAHIMAHI, PENSIEVE = "net/net-mahimahi", "net/net-hsdpa-fcc"
_DELAY = re.compile(r"(\d+(?:\.\d+)?)ms")


class UnknownLinkError(FamilialError):
    """No link has that name, or its trace cannot be read."""


@dataclass(frozen=True)
class Link:
    """A way between two machines. Up is from the device to the cloud."""

    name: str
    up: Capacity
    down: Capacity
    rtt_ms: float
    """Without jitter, queues and the time that a packet takes at the link's rate."""
    jitter_ms: float = 0.0
    """Mean of what comes on top in each direction."""
    loss: float = 0.0
    """Share of packets, in each direction."""
    source: str = ""

    def schedules(self, seed: int) -> tuple[Schedule, Schedule]:
        """Up and down from the link's beginning; the same for the same seed."""
        up, down = (
            Schedule(capacity, self.rtt_ms / 2e3, self.jitter_ms / 1e3, self.loss, f"{self.name} {way} {seed}")
            for way, capacity in (("up", self.up), ("down", self.down))
        )
        return up, down


def queue_bytes(capacity: Capacity) -> float:
    """Room of the queue before a bottleneck."""
    return max(LEAST_QUEUE_BYTES, QUEUE_S * capacity.mean_bps / 8)


NAMED = {
    link.name: link
    for link in (
        Link("lan", steady(1e9), steady(1e9), 0.3, source="rate: IEEE 802.3ab; round trip: assumed"),
        Link(
            "fibre",
            steady(500e6),
            steady(500e6),
            14,
            0.3,
            source="rate: assumed, a subscription on a passive optical network; round trip: the median US fixed line, "
            "Ookla, How Starlink's satellite internet stacks up, Q2 2021; jitter: assumed",
        ),
        Link(
            "5g",
            steady(14.7e6),
            steady(129.9e6),
            19,
            2,
            0.0005,
            source="rates: UK averages, Ofcom, Mobile Matters 2023; round trip: between its operators' averages of "
            "16.3 and 21.4 ms, Mobile Matters 2024; jitter, loss: assumed",
        ),
        Link(
            "4g",
            steady(7.6e6),
            steady(29.5e6),
            53,
            5,
            0.001,
            source="rates: UK averages, Ofcom, Mobile Matters 2023; round trip: 53.1 ms, Ofcom, Measuring mobile "
            "broadband performance, Q4 2014 (to the nearest server its crowd-sourced average of 2024 is 18 to 24 ms); "
            "jitter, loss: assumed",
        ),
        Link(
            "satellite",
            steady(14.84e6),
            steady(104.71e6),
            45,
            5,
            0.004,
            source="low orbit; rates and round trip: US medians of Starlink, Ookla, Q1 2025; jitter, loss: assumed, of "
            "the order seen over UDP at blog.wirelessmoves.com/2024/07/analyzing-packet-loss-in-starlink.html",
        ),
        Link(
            "geostationary",
            steady(2.54e6),
            steady(19.3e6),
            600,
            5,
            0.001,
            source="rates: US medians of HughesNet, Ookla, Q3 2021; round trip: G. Huston, Testing LEO and GEO "
            "satellite services in Australia, APNIC 2022; jitter, loss: assumed",
        ),
    )
}
"""The links that people have."""

TRACES = ("TMobile-LTE-short", "ATT-LTE-driving-2016", "Verizon-LTE-short", "norway_bus_1")
"""Some of the recorded ones, from a good mobile link to a poor one."""


def link(name: str) -> Link:
    """A link by its name: one of `NAMED`, `30ms` for a fast one with that round trip, or a trace's file name.

    Raises `UnknownLinkError`.
    """
    if name in NAMED:
        return NAMED[name]
    if delay := _DELAY.fullmatch(name):
        return Link(name, steady(1e9), steady(1e9), float(delay[1]))
    up, down = (_file(f"{MAHIMAHI}/{name}.{way}") for way in ("up", "down"))
    if up and down:
        source = "K. Winstein et al., Stochastic Forecasts, NSDI 2013 (Saturator); round trip: assumed"
        return Link(name, opportunities(up), opportunities(down), 40, source=source)
    for folder in ("cooked_test_traces", "cooked_traces"):
        if file := _file(f"{PENSIEVE}/{folder}/{name}"):
            source = (
                "H. Riiser et al., MMSys 2013, and FCC, Measuring Broadband America, as cooked for H. Mao et al., "
                "Neural Adaptive Video Streaming with Pensieve, SIGCOMM 2017, whose round trip it is; recorded "
                "downwards, used both ways"
            )
            capacity = rates(file)
            return Link(name, capacity, capacity, 80, source=source)
    raise UnknownLinkError(
        f"{name!r} is no link; give one of {', '.join(NAMED)}, a round trip such as 30ms, or the name of a trace under "
        f"FAMILIAL_DATA, for example {', '.join(TRACES)}"
    )


def opportunities(file: Path) -> Capacity:
    """A Mahimahi trace: a line has the millisecond at which one more packet may pass. Raises `UnknownLinkError`."""
    packets: Counter[int] = Counter()
    newest = 1  # millisecond 0 has no time before it: its packets pass with the first one's
    for number, (millisecond,) in _lines(file, 1):
        if not millisecond.is_integer() or max(1, millisecond) < newest:
            raise UnknownLinkError(f"{file}:{number}: expected milliseconds, whole and in order")
        newest = max(newest, int(millisecond))
        packets[newest] += 1
    times, carried = [0.0], [0.0]
    for millisecond, count in packets.items():
        if (millisecond - 1) / 1e3 > times[-1]:  # nothing passes in between
            times.append((millisecond - 1) / 1e3)
            carried.append(carried[-1])
        times.append(millisecond / 1e3)
        carried.append(carried[-1] + count * PACKET_BYTES)
    return _capacity(file, times, carried)


def rates(file: Path) -> Capacity:
    """A cooked trace: a line has a time in seconds and the rate, in Mbit/s, up to then. Raises `UnknownLinkError`."""
    times, carried, begin = [0.0], [0.0], None
    for number, (time, rate) in _lines(file, 2):
        begin = time if begin is None else begin
        step = time - begin - times[-1]
        if step < 0 or rate < 0:
            raise UnknownLinkError(f"{file}:{number}: expected seconds in order, and a rate from 0 on")
        if step > 0:
            times.append(times[-1] + step)
            carried.append(carried[-1] + step * rate * 1e6 / 8)
    return _capacity(file, times, carried)


def goodput_bps(capacity: Capacity) -> float:
    """What an application gets of a link's mean rate, in full segments."""
    return capacity.mean_bps * SEGMENT_BYTES / PACKET_BYTES


def _capacity(file: Path, times: list[float], carried: list[float]) -> Capacity:
    try:
        return Capacity(tuple(times), tuple(carried))
    except ValueError as error:
        raise UnknownLinkError(f"{file}: no trace of a link: {error}") from None


def _lines(file: Path, columns: int) -> list[tuple[int, list[float]]]:
    """The numbers of each line that is not empty, with its number."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = []
        if len(values) != columns and line.strip():
            raise UnknownLinkError(f"{file}:{number}: expected {columns} numbers, got {line[:40]!r}")
        if values:
            found.append((number, values))
    return found


def _file(name: str) -> Path | None:
    try:
        return report.data(name)
    except report.MissingInputError:
        return None
