"""`Profile`: what one machine measured of one or more bundles. `relay-node profile` writes it, the planner reads it.

It holds measurements, no model of them: times of single forwards, of whole texts through real nodes on the machine
itself, of a node's memory, and of the way to the next node.
"""

import json
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from family.errors import ProfileError
from family.files import write_atomic
from family.manifest import GRAPH_KINDS, graph_name
from family.spec import FamilySpec
from family.strict import FieldError, dumps, from_json

PROFILE_VERSION = 1


@dataclass(frozen=True)
class ForwardTime:
    """The time of one forward of a graph: the median over several, with the other graphs run in between."""

    rows: int
    """New rows, of all sequences together."""
    context: int
    """Positions that each sequence held before."""
    wanted: int
    """Rows whose logits were made, of all sequences together; 0 of a segment."""
    sessions: int
    """Sequences, each with as many of the rows."""
    ms: float


@dataclass(frozen=True)
class GraphProfile:
    """One graph's forwards."""

    kind: str
    """`segment` or `exit`."""
    index: int
    """g, counted from 1."""
    forwards: tuple[ForwardTime, ...]


@dataclass(frozen=True)
class SegmentMemory:
    """What a segment and its exit take more, once each has read as many rows in one forward as a node ever lets it."""

    segment: int
    largest_forward_bytes: int


@dataclass(frozen=True)
class TextTime:
    """Texts through nodes on this machine, over its loopback: medians over several texts."""

    first_segments: int
    """Segments of the first node; the second has the rest. G: there is one node only."""
    exit: int
    """The exit that decided all tokens."""
    codec: str
    prompt_tokens: int
    tokens: int
    ttft_ms: float
    """From the call to the first token, at the client."""
    tpot_ms: float
    """Mean time from token to token after the first; of several at a time, while all of them have theirs."""
    sessions: int = 1
    """Texts at a time."""


@dataclass(frozen=True)
class NodeMemory:
    """A node's resident memory, ready and without a session."""

    segments: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class BundleProfile:
    """One bundle on the machine. Several of one family differ in their precision."""

    spec: FamilySpec
    family: str
    """Family fingerprint."""
    export: str
    """Export fingerprint."""
    precision: str
    graphs: tuple[GraphProfile, ...]
    memory: tuple[SegmentMemory, ...]
    texts: tuple[TextTime, ...]
    nodes: tuple[NodeMemory, ...]

    def __post_init__(self) -> None:
        for i, graph in enumerate(self.graphs):
            if graph.kind not in GRAPH_KINDS:
                raise FieldError(f"graphs[{i}].kind", f"expected one of {GRAPH_KINDS}, got {graph.kind!r}")
            _check_forwards(graph.forwards, f"graphs[{i}].forwards")
        depth, known = self.spec.granularity, {(graph.kind, graph.index) for graph in self.graphs}
        for kind, g in product(GRAPH_KINDS, range(1, depth + 1)):
            if (kind, g) not in known:
                raise FieldError("graphs", f"{graph_name(kind, g)} is missing")
        for g in {1, depth}:
            if not any(text.exit == g and text.codec == "f32" and text.sessions == 1 for text in self.texts):
                raise FieldError("texts", f"expected one of exit {g} with exact rows and no other at the time")
        if not self.nodes:
            raise FieldError("nodes", "expected at least one")


def _check_forwards(forwards: tuple[ForwardTime, ...], path: str) -> None:
    """Raise `FieldError` where no cost could be made of them."""
    for i, forward in enumerate(forwards):
        if not forward.ms > 0 or not forward.rows >= forward.sessions > 0:
            raise FieldError(f"{path}[{i}]", "expected a time, and a row of each session")
    if not any((forward.rows, forward.context, forward.sessions) == (1, 0, 1) for forward in forwards):
        raise FieldError(path, "expected one of a single row with nothing before it")
    if not any(forward.sessions > 1 for forward in forwards):
        raise FieldError(path, "expected one of several sessions")


@dataclass(frozen=True)
class LinkProfile:
    """The way from this machine to its upstream node, through gRPC as relaying uses it."""

    upstream: str
    """HOST:PORT."""
    rtt_ms: float
    """Median of small messages and their replies, the upstream's own work included, without their bytes' time."""
    rtt_p95_ms: float
    up_bps: float
    """Bits per second of a message's rows, towards the upstream."""
    down_bps: float


@dataclass(frozen=True)
class MachineFacts:
    """What was measured on."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    onnxruntime: str


@dataclass(frozen=True)
class Profile:
    """One machine."""

    schema_version: int
    machine: MachineFacts
    threads: int
    """Of a forward."""
    took_s: float
    """To measure all of it."""
    bundles: tuple[BundleProfile, ...]
    upstream: LinkProfile | None = field(default=None)

    def __post_init__(self) -> None:
        if not self.bundles:
            raise FieldError("bundles", "expected at least one")
        if len({b.precision for b in self.bundles}) < len(self.bundles):
            raise FieldError("bundles", "expected bundles of different precisions")

    def bundle(self, precision: str) -> BundleProfile:
        """The bundle of that precision. Raises `ProfileError` that names those that are there."""
        for bundle in self.bundles:
            if bundle.precision == precision:
                return bundle
        known = ", ".join(b.precision for b in self.bundles)
        raise ProfileError(
            f"the profile of {self.machine.cpu} has precisions {known}, not {precision}; profile such a bundle too"
        )


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises `ProfileError` that names the file and the field."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror}); write it with relay-node profile") from None
    except ValueError as error:
        raise ProfileError(f"{path}: not JSON ({error}); write it again with relay-node profile") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != PROFILE_VERSION:
        raise ProfileError(
            f"{path}: schema_version: this release reads version {PROFILE_VERSION}, the file is of {version}; "
            "write it again with relay-node profile"
        )
    try:
        return from_json(Profile, data)
    except FieldError as error:
        raise ProfileError(f"{path}: {error}; write it again with relay-node profile") from None


def save_profile(profile: Profile, path: Path) -> None:
    """Write it, whole or not at all."""
    write_atomic(path, dumps(profile))
