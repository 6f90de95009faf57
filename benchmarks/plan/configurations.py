"""The configurations: what runs on which node, over which links, who decides, and how many texts at a time.

Every third of a list is held out: nothing was fitted to it or chosen by it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from benchmarks import report
from benchmarks.net.links import Link
from benchmarks.net.schedule import steady
from family.spec import FamilySpec
from scaling.plan.deployment import ConfidenceExit, Deployment, FixedExit, Place, Policy, SpeculativeExit
from scaling.plan.fleet import Link as PlanLink

LINKS = report.ROOT / "experiments" / "plan" / "links.json"
"""Each as it was measured."""
TIERS = ("device", "edge", "cloud")


@dataclass(frozen=True)
class Way:
    """A link, the same up and down."""

    rtt_ms: float
    mbps: float
    jitter_ms: float = 0.0
    """Mean of what comes on top in each direction."""

    @property
    def name(self) -> str:
        return f"{self.rtt_ms:g}ms/{self.mbps:g}M" + (f"/j{self.jitter_ms:g}" if self.jitter_ms else "")

    def shaped(self) -> Link:
        """As the project's shaper makes it."""
        rate = steady(self.mbps * 1e6)
        return Link(self.name, rate, rate, self.rtt_ms, self.jitter_ms)

    def planned(self) -> PlanLink:
        """As the planner knows it: measured, but for the jitter."""
        known = _measured()[self.name]
        deviation_s = 2**0.5 * self.jitter_ms / 1e3  # of two exponentials
        return PlanLink(known["rtt_ms"] / 1e3, known["up_bps"], known["down_bps"], deviation_s)


@dataclass(frozen=True)
class Configuration:
    """One of them. Its name says all of it."""

    precision: str
    cut: tuple[str, ...]
    """Segments of each node, as `--segments` takes them."""
    ways: tuple[Way, ...]
    policy: Policy
    prompt: int
    """Tokens, about."""
    tokens: int
    """Of the text."""
    codec: Literal["f32", "bf16", "int8", "int4"] = "f32"
    send: Literal["rows", "ahead", "ids"] = "rows"
    sessions: int = 1
    client: Way | None = None
    """Between the application and the first node; None: none."""
    held_out: bool = field(default=False)

    @property
    def name(self) -> str:
        said = [self.precision, "|".join(self.cut), *(way.name for way in self.ways), policy_name(self.policy)]
        said += [] if self.codec == "f32" else [self.codec]
        said += [] if self.send == "rows" else [self.send]
        said += [] if self.client is None else [f"from {self.client.name}"]
        return " ".join([*said, f"p{self.prompt}", f"n{self.tokens}", f"s{self.sessions}"])

    def deployment(self, spec: FamilySpec) -> Deployment:
        """As the planner knows it."""
        places = tuple(Place(TIERS[i], _segments(cut)) for i, cut in enumerate(self.cut))
        links = tuple(way.planned() for way in self.ways)
        client = self.client.planned() if self.client else None
        return Deployment(spec, places, links, self.policy, self.codec, self.send, client)


@lru_cache
def _measured() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(LINKS.read_text(encoding="utf-8"))
    return found


def _segments(cut: str) -> tuple[int, ...]:
    first, _, last = cut.partition("-")
    return tuple(range(int(first), int(last or first) + 1))


def policy_name(policy: Policy) -> str:
    """Short, and of this policy alone."""
    match policy:
        case FixedExit(exit=exit_, burst=burst):
            return f"exit{exit_}" + (f"+{burst}" if burst else "")
        case ConfidenceExit(epsilon=epsilon):
            return f"eps{epsilon:g}"
        case SpeculativeExit(exit=exit_, draft_exit=draft, length=length):
            return f"spec{draft}>{exit_}" + (f"x{length}" if length else "")


def _third_held_out(found: Sequence[Configuration]) -> tuple[Configuration, ...]:
    return tuple(replace(c, held_out=i % 3 == 2) for i, c in enumerate(found))


CHAIN, PAIR, WHOLE, IDS = ("1", "2", "3"), ("1-2", "3"), ("1-3",), ("1-2", "1-3")
FAST, NEAR, MID, FAR, SLOW = Way(2, 100), Way(10, 20), Way(30, 10), Way(100, 100), Way(50, 2)

ALONE = _third_held_out(
    (
        Configuration("int4", WHOLE, (), FixedExit(1), 64, 32),
        Configuration("int4", PAIR, (FAST,), FixedExit(3), 64, 32),
        Configuration("int4", PAIR, (MID,), FixedExit(3), 256, 32),
        Configuration("int4", CHAIN, (FAST, NEAR), FixedExit(3), 64, 32),
        Configuration("f32", PAIR, (FAST,), FixedExit(3), 64, 32),
        Configuration("int4", CHAIN, (NEAR, MID), FixedExit(3), 256, 32),
        Configuration("int4", PAIR, (FAR,), FixedExit(3), 64, 24),
        Configuration("int4", PAIR, (MID,), SpeculativeExit(3, 2, 4), 64, 48),
        Configuration("int4", PAIR, (FAR,), SpeculativeExit(3, 2, 8), 64, 48),
        Configuration("int4", PAIR, (SLOW,), FixedExit(3), 128, 24, "int8"),
        Configuration("int4", PAIR, (MID,), ConfidenceExit(0.1), 64, 48),
        Configuration("int4", PAIR, (SLOW,), FixedExit(3), 64, 24, "int4"),
        Configuration("f32", WHOLE, (), FixedExit(2), 256, 24),
        Configuration("int4", PAIR, (NEAR,), SpeculativeExit(3, 2), 64, 48),
        Configuration("f32", CHAIN, (NEAR, NEAR), FixedExit(3), 128, 24),
        Configuration("int4", PAIR, (Way(30, 10, 3),), FixedExit(3), 64, 32),
        Configuration("int4", PAIR, (FAR,), ConfidenceExit(0.05), 64, 48),
        Configuration("int4", IDS, (MID,), FixedExit(3, 15), 64, 48, send="ids"),
        Configuration("int4", IDS, (FAR,), FixedExit(3), 256, 24, send="ids"),
        Configuration("int4", ("1", "2-3"), (SLOW,), FixedExit(3), 256, 16),
        Configuration("f32", PAIR, (MID,), SpeculativeExit(3, 2, 4), 64, 48),
        Configuration("int4", ("1", "2-3"), (FAST,), FixedExit(2), 512, 32, "bf16"),
        Configuration("f32", PAIR, (SLOW,), FixedExit(2), 64, 32),
        Configuration("f32", ("1", "2-3"), (NEAR,), FixedExit(3), 64, 32, "bf16"),
    )
)
"""One text at a time."""

TOGETHER = _third_held_out(
    (
        Configuration("int4", WHOLE, (), FixedExit(3), 64, 32, sessions=4),
        Configuration("int4", PAIR, (FAST,), FixedExit(3), 64, 32, sessions=2),
        Configuration("int4", PAIR, (MID,), FixedExit(3), 64, 32, sessions=4),
        Configuration("int4", WHOLE, (), FixedExit(1), 64, 48, sessions=8),
        Configuration("int4", PAIR, (FAR,), FixedExit(3), 64, 32, sessions=8),
        Configuration("int4", PAIR, (NEAR,), FixedExit(3), 64, 32, "int8", sessions=8),
        Configuration("f32", WHOLE, (), FixedExit(2), 64, 32, sessions=2),
        Configuration("int4", IDS, (MID,), FixedExit(3, 15), 64, 48, send="ids", sessions=4),
        Configuration("f32", PAIR, (NEAR,), FixedExit(3), 64, 32, sessions=4),
        Configuration("int4", PAIR, (MID,), SpeculativeExit(3, 2, 4), 64, 48, sessions=4),
        Configuration("int4", PAIR, (FAR,), ConfidenceExit(0.1), 64, 48, sessions=4),
        Configuration("int4", WHOLE, (), FixedExit(3), 128, 32, sessions=8),
        Configuration("int4", WHOLE, (), FixedExit(3), 128, 32, sessions=4),
        Configuration("int4", PAIR, (NEAR,), FixedExit(3), 128, 32, sessions=8),
        Configuration("f32", WHOLE, (), FixedExit(2), 64, 32, sessions=4),
    )
)
"""Several at a time."""
AWAY = _third_held_out(
    (
        Configuration("int4", WHOLE, (), FixedExit(3), 64, 32, client=MID),
        Configuration("int4", WHOLE, (), FixedExit(3), 256, 32, client=FAR),
        Configuration("int4", WHOLE, (), FixedExit(3), 64, 32, sessions=4, client=SLOW),
    )
)
"""Everything on one machine, which is asked over a link."""
CONFIGURATIONS = (*ALONE, *TOGETHER, *AWAY)
