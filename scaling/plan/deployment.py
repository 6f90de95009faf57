"""A deployment: which segments run on which tier, over which links, and who decides tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from family.errors import FamilialError
from family.manifest import check_segments
from family.spec import FamilySpec
from family.strict import FieldError
from scaling.plan.fleet import Link


class DeploymentError(FamilialError):
    """A deployment contradicts itself, or does not have what a policy asks for; the text names what."""


@dataclass(frozen=True)
class FixedExit:
    """Every token at this exit, counted from 1."""

    exit: int
    burst: int = 0
    """Tokens that the exit's node decides by itself after each that it is asked for (`send` is `ids`)."""


@dataclass(frozen=True)
class ConfidenceExit:
    """Every token at the first exit that is sure enough, by the thresholds certified for epsilon."""

    epsilon: float


@dataclass(frozen=True)
class SpeculativeExit:
    """Every token as one exit decides it, drafted by an earlier one of the entry node."""

    exit: int
    draft_exit: int
    length: int | None = None
    """Drafts of a message; None: as many as pays."""


Policy: TypeAlias = FixedExit | ConfidenceExit | SpeculativeExit


@dataclass(frozen=True)
class Statistics:
    """What was measured of a family's exits on texts, whatever the machines."""

    shares: Mapping[float, tuple[float, ...]] = field(default_factory=dict)
    """By epsilon, the share of the tokens that each exit decides."""
    first: Mapping[float, tuple[float, ...]] = field(default_factory=dict)
    """The same of texts' first tokens; where there is none, that of all tokens stands for it."""
    acceptance: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """By drafting and target exit, the share of drafts that are right where all before them are."""


@dataclass(frozen=True)
class Place:
    """A node's part."""

    tier: str
    segments: tuple[int, ...]


@dataclass(frozen=True)
class Deployment:
    """A chain of nodes, the entry first. Raises `DeploymentError` where its parts do not fit."""

    spec: FamilySpec
    places: tuple[Place, ...]
    links: tuple[Link, ...]
    """Between each place and the next."""
    policy: Policy
    codec: str = "f32"
    """How rows travel, on all links."""
    send: Literal["rows", "ahead", "ids"] = "rows"
    """What the entry node sends; the next one holds segment 1 too where it is `ids`."""
    client: Link | None = None
    """Between the application and the entry node; None: the same machine."""

    def __post_init__(self) -> None:
        depth, last = self.spec.granularity, 0
        if len(self.links) != len(self.places) - 1:
            raise DeploymentError(f"{len(self.places)} places need {len(self.places) - 1} links, got {len(self.links)}")
        for i, place in enumerate(self.places):
            try:
                check_segments(place.segments, depth, f"places[{i}].segments")
            except FieldError as error:
                raise DeploymentError(str(error)) from None
            begins = 1 if i == 0 or (i == 1 and self.send == "ids") else last + 1
            if place.segments[0] != begins:
                raise DeploymentError(f"places[{i}].segments: expected to begin with {begins}, got {place.segments}")
            last = place.segments[-1]
        if self.deepest > last:
            raise DeploymentError(f"exit {self.deepest} is asked, but the last place ends with segment {last}")

    @property
    def deepest(self) -> int:
        """The deepest exit that the policy asks."""
        return self.spec.granularity if isinstance(self.policy, ConfidenceExit) else self.policy.exit

    def place_of(self, exit_: int) -> int:
        """The index of the first place that has the exit."""
        return next(i for i, place in enumerate(self.places) if exit_ <= place.segments[-1])
