"""What nodes say of themselves (`relay describe`), as an observation of the links between them and of the load.

A link's round trip is the time in which the upstream answers a health check. Its rate is the slope of messages' times
against their sizes, which the nodes' sums give for those sent since the last look. What was believed of the rate moves
only as far as it must: a slope whose confidence interval holds it changes nothing, so a link that few or equal messages
crossed keeps its rate. What a message costs the nodes themselves is taken off. Load is what nodes have read since.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scaling.plan.cost import Machine
from scaling.plan.deployment import Place
from scaling.plan.fleet import Link
from scaling.plan.online import Observed

if TYPE_CHECKING:
    from relay.client.types import Node, Timed

MOST_BPS = 1e10
STEPS = 100
"""In which the number of others is found: from none on, it rises to what it is."""
SURE = 2.0
"""Standard errors to each side of a slope."""


@dataclass(frozen=True)
class Way:
    """A link, as it is believed to be, and what was known of its messages then."""

    link: Link
    timed: "Timed"


@dataclass(frozen=True)
class Own:
    """What nodes at both ends of a link take for a message, beside the link."""

    message_s: float
    byte_s: float


def own(below: Machine, above: Machine, row_bytes: float) -> Own:
    """Of two machines, for rows of so many bytes: half of each, as the model of a relay has it."""
    message_s, row_s = ((a + b) / 2 for a, b in zip(_costs(below), _costs(above), strict=True))
    return Own(message_s, row_s / row_bytes)


def look(way: Way, node: "Node", rtt_ms: float, costs: Own) -> Way:
    """The way upstream of a node that has described itself anew."""
    rtt_s = max(0.0, rtt_ms / 1e3 - costs.message_s)
    slope_s, error_s = _slope(way.timed, node.timed)
    believed_s = 8 / way.link.up_bps + costs.byte_s
    byte_s = min(max(believed_s, slope_s - SURE * error_s), slope_s + SURE * error_s)
    up_bps = way.link.up_bps if byte_s == believed_s else 8 / max(byte_s - costs.byte_s, 8 / MOST_BPS)
    timed = way.timed if error_s == math.inf and node.timed.count >= way.timed.count else node.timed
    return Way(replace(way.link, rtt_s=rtt_s, up_bps=up_bps), timed)


def rows_of(node: "Node") -> int:
    """That a node's busiest segment has read since its start."""
    return max((work.rows for name, work in node.work.items() if name.startswith("segment")), default=0)


def observed(
    ways: Sequence[Way],
    nodes: "Sequence[Node]",
    rates: Sequence[float],
    places: Sequence[Place],
    machines: Mapping[str, Machine],
    context: float,
) -> Observed:
    """The links as they are believed, and how many times as long as alone a token's forward takes on the busiest node
    beyond the first, where sessions hold `context` positions each. `rates` are rows per second that nodes read.

    By Little's law n = rate * F(1 + n) others share a forward, and never more than the node has sessions: one that
    nobody writes in adds nothing.
    """

    def load(node: "Node", rate: float, place: Place) -> float:
        costs = [machines[place.tier].segments[g] for g in place.segments]

        def forward_s(rows: float) -> float:
            return sum(float(cost.seconds(rows, context, 0, rows)) for cost in costs)

        most, others = max(0.0, node.sessions - 1.0), 0.0
        for _ in range(STEPS):
            others = min(most, rate * forward_s(1 + others) * most / (1 + most))
        return forward_s(1 + others) / forward_s(1.0)

    beyond = (load(*row) for row in zip(nodes[1:], rates[1:], places[1:], strict=True))
    return Observed(tuple(way.link for way in ways), max(beyond, default=1.0))


def _costs(machine: Machine) -> tuple[float, float]:
    return machine.node.message_s, machine.node.row_s


def _slope(before: "Timed", after: "Timed") -> tuple[float, float]:
    """Seconds a byte of the messages between two looks, by least squares, and its standard error; infinite where they
    tell nothing.
    """
    n = after.count - before.count
    x, y, xx, xy, yy = (getattr(after, name) - getattr(before, name) for name in ("x", "y", "xx", "xy", "yy"))
    if n < 3:
        return 0.0, math.inf
    sxx, sxy, syy = xx - x * x / n, xy - x * y / n, yy - y * y / n
    if sxx <= 1e-9 * xx:  # of equal sizes, but for rounding
        return 0.0, math.inf
    slope = sxy / sxx
    return slope / 1e3, math.sqrt(max(0.0, syy - slope * sxy) / (n - 2) / sxx) / 1e3
