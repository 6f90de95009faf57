"""What a machine takes for a forward: the seam between profiles, rooflines and the model of a relay.

A machine is known by the times of its graphs alone. A profile measured them (`scaling.plan.profiled`), or a roofline
makes them of a family's shape and a machine's figures; `scaling.plan.model` asks and does not care which.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Number: TypeAlias = float | NDArray[np.float64]
"""A number, or an array of them: all arithmetic of the planner is by element and broadcasts."""
LARGEST_FORWARD = 512
"""Rows that a node reads in one forward, at most."""


class GraphCost(Protocol):
    """The time of one forward of one graph, a segment or an exit."""

    def seconds(self, rows: Number, context: Number, wanted: Number = 0, sessions: Number = 1) -> Number:
        """One forward over the rows of `sessions` sequences.

        Args:
            rows: new rows, of all sequences together.
            context: positions that a sequence holds before these rows, the mean over sequences.
            wanted: rows whose logits are made, of all sequences together; exits only.
            sessions: sequences that take part.
        """
        ...


@dataclass(frozen=True)
class NodeCost:
    """What a node takes beside its graphs, in seconds of its own time."""

    request_s: float = 0.0
    """A text: from the client's call to the first forward, and back to the client."""
    token_s: float = 0.0
    """A decided token: choice, text and event to the client."""
    job_s: float = 0.0
    """Each session that shares a forward with another: what nodes do one session after the other."""
    message_s: float = 0.0
    """A message to the next node and its reply: both ends together, without the link."""
    row_s: float = 0.0
    """A row of a message: both ends together."""


@dataclass(frozen=True)
class Machine:
    """One kind of machine at one precision, for one family. Graphs are named `segment-1`, `exit-1`, ..."""

    segments: Mapping[int, GraphCost]
    exits: Mapping[int, GraphCost]
    weight_bytes: Mapping[str, float]
    """Memory of each graph that was opened; what several share (the tied head) stands under `shared`, once."""
    kv_bytes_per_position: Mapping[str, float]
    """Of one session's position, in each graph with attention."""
    memory_bytes: float
    """Of the whole machine."""
    other_bytes: float = 0.0
    """A node's memory without weights, keys and values: the process itself."""
    forward_bytes: Mapping[str, float] = field(default_factory=dict)
    """What each graph takes more, once it has read `LARGEST_FORWARD` rows at once."""
    node: NodeCost = field(default_factory=NodeCost)
    most_positions: float = math.inf
    """Of a session, up to which the times were measured; infinite where they were not, but follow from figures."""
    most_sessions: float = math.inf
    """Up to which they were."""


MOST_KNOWN = 1 << 14
"""Times that a graph remembers."""


@dataclass(frozen=True)
class _Remembered:
    """A graph that is asked for the same times again and again, as a search does."""

    cost: GraphCost
    known: dict[tuple[Number, ...], Number] = field(default_factory=dict, compare=False, repr=False)

    def seconds(self, rows: Number, context: Number, wanted: Number = 0, sessions: Number = 1) -> Number:
        key = (rows, context, wanted, sessions)
        if isinstance(rows, np.ndarray) or isinstance(context, np.ndarray) or isinstance(wanted, np.ndarray):
            return self.cost.seconds(*key)
        found = self.known.get(key)
        if found is None:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            found = self.known[key] = self.cost.seconds(*key)
        return found


def remembered(machine: Machine) -> Machine:
    """The machine whose graphs remember their times."""
    return replace(
        machine,
        segments={g: _Remembered(cost) for g, cost in machine.segments.items()},
        exits={g: _Remembered(cost) for g, cost in machine.exits.items()},
    )


@dataclass(frozen=True)
class _Loaded:
    """A graph that takes so many times as long."""

    cost: GraphCost
    load: float

    def seconds(self, rows: Number, context: Number, wanted: Number = 0, sessions: Number = 1) -> Number:
        return self.load * self.cost.seconds(rows, context, wanted, sessions)


def loaded(machine: Machine, load: float) -> Machine:
    """The machine where every forward takes so many times as long: it has other things to do as well, or is faster."""
    if load == 1.0:
        return machine
    return replace(
        machine,
        segments={g: _Loaded(cost, load) for g, cost in machine.segments.items()},
        exits={g: _Loaded(cost, load) for g, cost in machine.exits.items()},
    )
