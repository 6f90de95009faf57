"""What the client returns and takes: plain frozen data, no gRPC type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from relay.policy import Policy
from relay.v1 import relay_pb2 as pb

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""A text to continue, token ids, or the turns of a conversation: `[{"role": "user", "content": "…"}]`."""


class GenerateOptions(TypedDict, total=False):
    """Options of `generate`, the same for both clients."""

    max_tokens: int
    """At most this many tokens; 0, the default, means up to the end of the context."""
    policy: Policy
    """Which exit decides each token; by default the deepest."""
    timeout: float
    """Seconds for the whole text, over every hop; none by default."""
    logits: bool
    """Also return the logits that decided each token."""
    ignore_stop: bool
    """Go on after a stop id."""
    session: str
    """Name of the session in every node's log; drawn if it is not given."""


@dataclass(frozen=True)
class Token:
    """A decided token. It is final."""

    id: int
    text: str
    """Text that it completes; empty while a character is still in pieces."""
    position: int
    """Position in the session, the prompt's included."""
    exit: int
    """The exit that decided it, counted from 1."""
    tier: str
    """The tier that computed that exit."""
    confidence: float
    """Largest probability at that exit."""
    elapsed_ms: float
    """Since the entry node received the request."""
    engine_ms: float
    """Engine time that all nodes spent on this token."""
    logits: NDArray[np.float32] | None
    """Shape (vocab_size,), if asked for."""


@dataclass(frozen=True)
class Finish:
    """Why and with what a text ended."""

    reason: str
    """`stop`: a stop id was decided; `length`: max_tokens; `context`: the context is full."""
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Node:
    """One node of the chain, as `describe` reports it."""

    tier: str
    version: str
    segments: tuple[int, ...]
    granularity: int
    family: str
    family_fingerprint: str
    export_fingerprint: str
    precision: str
    context: int
    chunk_invariant: bool
    sessions: int
    rss_bytes: int
    messages_sent: int
    """Sent upstream since the node's start, as the next two."""
    rows_sent: int
    bytes_sent: int
    upstream: str
    upstream_error: str


def token(message: pb.Token) -> Token:
    """A token off the wire."""
    return Token(
        id=message.id,
        text=message.text,
        position=message.position,
        exit=message.exit,
        tier=message.tier,
        confidence=message.confidence,
        elapsed_ms=message.timings.elapsed_ms,
        engine_ms=message.timings.engine_ms,
        logits=np.frombuffer(message.logits, "<f4") if message.logits else None,
    )


def finish(message: pb.Finish) -> Finish:
    """The end of a text off the wire."""
    reason = pb.Finish.Reason.Name(message.reason).removeprefix("REASON_").lower()
    return Finish(reason, message.prompt_tokens, message.tokens)


def node(message: pb.Node) -> Node:
    """A node's description off the wire."""
    return Node(
        tier=message.tier,
        version=message.version,
        segments=tuple(range(message.first_segment, message.last_segment + 1)),
        granularity=message.granularity,
        family=message.family,
        family_fingerprint=message.family_fingerprint,
        export_fingerprint=message.export_fingerprint,
        precision=message.precision,
        context=message.context,
        chunk_invariant=message.chunk_invariant,
        sessions=message.sessions,
        rss_bytes=message.rss_bytes,
        messages_sent=message.sent.messages,
        rows_sent=message.sent.rows,
        bytes_sent=message.sent.bytes,
        upstream=message.upstream,
        upstream_error=message.upstream_error,
    )
