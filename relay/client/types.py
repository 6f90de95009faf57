"""What the client returns and takes: plain frozen data, no gRPC type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from relay import options
from relay.messages import Logprobs
from relay.names import Codec
from relay.policy import Policy
from relay.v1 import relay_pb2 as pb

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""A text to continue, token ids, or the turns of a conversation: `[{"role": "user", "content": "…"}]`."""


class GenerateOptions(TypedDict, total=False):
    """Options of `generate`, the same for both clients."""

    max_tokens: int
    """At most this many tokens; 0, the default, means up to the end of the context."""
    policy: Policy
    """Which exit decides each token; by default the deepest. `steer` changes it in mid-text."""
    codec: Literal["f32", "bf16", "int8", "int4"]
    """How rows travel between the nodes, for the whole text: `f32`, exactly, in 4 bytes a value; `bf16`, `int8` and
    `int4` in about 2, 1 and half of one, and the text may become another one. By default as the entry node is set up.
    A session that was kept begins anew with another codec.
    """
    temperature: float
    """Divides the logits before a token is drawn; 0, the default, is greedy: the most probable token."""
    top_k: int
    """Draw from the k most probable tokens only; 0, the default: from all."""
    top_p: float
    """Draw from the most probable tokens that together have this probability; 1, the default: from all."""
    min_p: float
    """Draw from tokens at least this probable, relative to the most probable; 0, the default: from all."""
    seed: int
    """64 bits. The same seed, prompt and exits give the same text on any nodes; drawn if it is not given."""
    samples: int
    """So many texts of the one prompt, one after the other (`Token.sample` counts them); 1 by default."""
    stop: str | Sequence[str]
    """The text ends before the first of these."""
    stop_ids: Sequence[int]
    """Ids that end the text, beside the model's own."""
    logprobs: int
    """Return log-probabilities: the token's, and those of this many most probable tokens (0 to 64)."""
    repetition_penalty: float
    """Over 1: every token of prompt and text becomes less probable (arXiv 1909.05858). This and the next two need the
    token ids, so only exits of the entry node may decide."""
    presence_penalty: float
    """Taken off the logit of every token that the text has."""
    frequency_penalty: float
    """Taken off the logit of a token as often as the text has it."""
    keep: bool
    """Keep the session when the text is over: the entry node computes only what is new in the next prompt of the same
    `session`. Nodes upstream keep theirs for their grace, and are sent the rows again after that.
    """
    timeout: float
    """Seconds for the whole text, over every hop, up to 10^9; none by default."""
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
    """Engine time that all nodes spent on this token. Of tokens that were decided together (a speculation's, a burst's)
    the first has that of all, the making of their drafts included."""
    link_ms: float
    """What the hops took for it: their round trips less engine time. The first of several has that of all, too."""
    sample: int
    """Which of the request's samples it belongs to, from 0."""
    logprobs: Logprobs | None
    """Before temperature and filters, at the exit that decided; if asked for."""
    logits: NDArray[np.float32] | None
    """Shape (vocab_size,), if asked for."""


@dataclass(frozen=True)
class Finish:
    """Why and with what a text ended."""

    reason: str
    """`stop`: a stop id or a stop string; `length`: max_tokens; `context`: the context is full."""
    prompt_tokens: int
    tokens: int
    stop: str
    """The stop string that ended it, empty if none did."""
    cached_tokens: int
    """Tokens of the prompt that the entry node did not compute again."""
    sample: int


@dataclass(frozen=True)
class Work:
    """What a graph of the bundle computed."""

    rows: int
    logits: int
    """Of an exit: rows whose logits were wanted."""


@dataclass(frozen=True)
class SpeculationPace:
    """What a node measured of its speculations between two exits; the newest rounds count most."""

    draft_exit: int
    target_exit: int
    right: float
    """The share of drafts that the target's exit would have made too, where it agreed with all before."""
    draft_ms: float
    verify_ms: float
    """Of a verification of no draft, the way there and back included."""
    row_ms: float
    """More of it, for each draft."""
    checked: int
    """Drafts since the node's start that were compared with the target's choice."""
    accepted: int
    """Those that were right."""


@dataclass(frozen=True)
class Timed:
    """Sums over messages of size x in bytes that took y ms."""

    count: int
    x: float
    y: float
    xx: float
    xy: float
    yy: float


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
    codecs: tuple[str, ...]
    """Of rows, that it knows."""
    chunk_invariant: bool
    sessions: int
    rss_bytes: int
    messages_sent: int
    """Sent upstream since the node's start, as the next two."""
    rows_sent: int
    bytes_sent: int
    hop_ms_p50: float
    """Of the newest messages: the round trip to the upstream less engine time and further hops. The next: 99 of 100."""
    hop_ms_p99: float
    upstream: str
    upstream_error: str
    work: Mapping[str, Work]
    """What each of its graphs computed since the start."""
    paces: tuple[SpeculationPace, ...]
    """Of the speculations that began there."""
    upstream_ms: float
    """How long its upstream took to answer a health check just now: a round trip."""
    timed: Timed
    """Of the messages since the node's start that waited behind no other; times as those of `hop_ms_p50`."""


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
        link_ms=message.timings.link_ms,
        sample=message.sample,
        logprobs=options.logprobs(message.logprobs) if message.HasField("logprobs") else None,
        logits=np.frombuffer(message.logits, "<f4") if message.logits else None,
    )


def finish(message: pb.Finish) -> Finish:
    """The end of a text off the wire."""
    reason = pb.Finish.Reason.Name(message.reason).removeprefix("REASON_").lower()
    return Finish(
        reason=reason,
        prompt_tokens=message.prompt_tokens,
        tokens=message.tokens,
        stop=message.stop,
        cached_tokens=message.cached_tokens,
        sample=message.sample,
    )


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
        codecs=tuple(codec.label for codec in Codec if codec in (message.codecs or (Codec.F32,))),
        chunk_invariant=message.chunk_invariant,
        sessions=message.sessions,
        rss_bytes=message.rss_bytes,
        messages_sent=message.sent.messages,
        rows_sent=message.sent.rows,
        bytes_sent=message.sent.bytes,
        hop_ms_p50=message.sent.hop_ms_p50,
        hop_ms_p99=message.sent.hop_ms_p99,
        upstream=message.upstream,
        upstream_error=message.upstream_error,
        work={work.graph: Work(work.rows, work.logits) for work in message.work},
        paces=tuple(
            SpeculationPace(
                p.draft_exit, p.target_exit, p.right, p.draft_ms, p.verify_ms, p.row_ms, p.checked, p.accepted
            )
            for p in message.paces
        ),
        upstream_ms=message.upstream_ms,
        timed=_timed(message.sent.timed),
    )


def _timed(message: pb.Timed) -> Timed:
    return Timed(message.count, message.x, message.y, message.xx, message.xy, message.yy)
