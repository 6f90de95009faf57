"""From a `GenerateRequest` to a checked `Job`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from family.spec import FamilySpec
from relay import options
from relay.certified import certified
from relay.errors import IdsUnknownError, InvalidRequestError, PromptTooLongError, UnknownExitError
from relay.names import Codec
from relay.node.codec import check_codec
from relay.node.default import Default
from relay.node.node import Node
from relay.node.stops import Limit
from relay.policy import FixedExit, Policy, SpeculativeExit, deepest_exit, drafting_exit
from relay.sampling import GREEDY, NO_PENALTIES, Penalties, Sampling
from relay.session import beyond
from relay.tls import Peer
from relay.v1 import relay_pb2 as pb

MOST_SAMPLES = 64
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256
MOST_STOP_IDS = 256


@dataclass(frozen=True)
class Job:
    """One checked request."""

    ids: tuple[int, ...]
    """The prompt."""
    most: int
    """Tokens to decide at most; never beyond the context."""
    limit: Limit
    """Why the text ends if it reaches `most`."""
    policy: Policy | None
    """None: the caller's default of the moment."""
    deepest: int
    """The deepest exit that a schedule may draw."""
    stop_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    penalties: Penalties = NO_PENALTIES
    samples: int = 1
    logprobs: int | None = None
    logits: bool = False
    codec: Codec = Codec.F32
    """How rows travel between the nodes."""

    @property
    def positions(self) -> int:
        """That the text may reach."""
        return len(self.ids) + self.most


async def job_of(node: Node, request: pb.GenerateRequest, owner: Peer) -> Job:
    """A caller's request, checked. Raises `InvalidRequestError` or one of its kinds."""
    spec = node.manifest.spec
    ids = await _prompt(node, request)
    check_prompt(ids, spec)
    penalties = options.penalties(request.penalties)
    given = options.policy(request.policy)
    if given is None and penalties != NO_PENALTIES:  # which a default may not suit: it is nobody's choice for this text
        given = FixedExit(node.deepest_exit)
    policy = None if given is None else checked(given, penalties, node)
    default = node.default(owner)
    codec = options.codec(request.codec) if request.codec else default.codec
    await check_codec(node, codec, policy or default.policy)
    room = spec.context - len(ids)
    own_stops = () if request.ignore_stop else node.manifest.stop_ids
    return Job(
        ids=tuple(ids),
        most=min(request.max_tokens or room, room),
        limit="length" if 0 < request.max_tokens <= room else "context",
        policy=policy,
        deepest=node.deepest_exit,
        stop_ids=frozenset(own_stops) | frozenset(_stop_ids(request.stop_ids, spec)),
        stop=_stops(request.stop),
        sampling=options.sampling(request.sampling),
        penalties=penalties,
        samples=_samples(request.samples),
        logprobs=options.logprobs_wanted(request, spec.vocab_size),
        logits=request.logits,
        codec=codec,
    )


async def default_of(node: Node, request: pb.SteerRequest) -> Default:
    """The default that a caller asks for. Raises `InvalidRequestError` or one of its kinds."""
    if node.text is None:
        raise _no_entry(node)
    policy = checked(options.policy(request.policy) or FixedExit(node.deepest_exit), NO_PENALTIES, node)
    codec = options.codec(request.codec) if request.codec else Codec.labelled(node.config.codec)
    await check_codec(node, codec, policy)
    return Default(policy, codec)


def check_prompt(ids: Sequence[int], spec: FamilySpec) -> None:
    """Raise the `InvalidRequestError` that says what is wrong with a prompt."""
    if not ids:
        raise InvalidRequestError("the prompt is empty; give at least one token")
    if len(ids) > spec.context - 1:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens; this family's context is {spec.context}, so send at most "
            f"{spec.context - 1}"
        )
    _ids(ids, spec, "token id")


def checked(policy: Policy, penalties: Penalties, node: Node) -> Policy:
    """A policy that this node can follow, with thresholds in place of an epsilon.

    Raises what is wrong with it for a text with these penalties, begun on this node: `InvalidRequestError`,
    `UnknownExitError`, `NoUpstreamError`, `IdsUnknownError`.
    """
    policy = certified(policy, node.manifest)
    deepest, last = deepest_exit(policy, node.deepest_exit), node.last_segment
    granularity = node.manifest.spec.granularity
    if not 1 <= deepest <= granularity:
        raise UnknownExitError(f"exit {deepest} is unknown; this family has exits 1..{granularity}")
    if deepest > node.deepest_exit:
        raise beyond(deepest, last, node.config.tier)
    if isinstance(policy, SpeculativeExit):
        _check_speculation(policy, deepest, penalties, node)
    if penalties != NO_PENALTIES and deepest > last:
        raise IdsUnknownError(
            f"penalties need the token ids, which only this node has, and it serves exits up to {last}; "
            f"leave the penalties out, or choose a policy that asks no exit beyond {last}"
        )
    return policy


def _check_speculation(policy: SpeculativeExit, target: int, penalties: Penalties, node: Node) -> None:
    draft_exit = drafting_exit(policy, node.deepest_exit, node.last_segment)
    if not 1 <= draft_exit < target:
        raise UnknownExitError(f"exit {draft_exit} cannot draft for exit {target}; drafts come from an exit before it")
    if draft_exit > node.last_segment:
        raise UnknownExitError(
            f"exit {draft_exit} cannot draft here: drafts are made on this node, which serves exits up to "
            f"{node.last_segment}"
        )
    if penalties != NO_PENALTIES:
        raise InvalidRequestError(
            "penalties change with every token, so drafts cannot be verified together; leave the penalties out, or "
            "choose a fixed exit"
        )


async def _prompt(node: Node, request: pb.GenerateRequest) -> Sequence[int]:
    if node.text is None:
        raise _no_entry(node)
    match request.WhichOneof("prompt"):
        case "text":
            return await asyncio.to_thread(node.text.encode, request.text)
        case "ids":
            return request.ids.ids
        case "chat":
            return await asyncio.to_thread(node.text.encode_chat, request.chat.turns)
        case _:
            raise InvalidRequestError("the request has no prompt; give text, ids or chat")


def _no_entry(node: Node) -> InvalidRequestError:
    return InvalidRequestError(
        f"this node serves segments {node.first_segment}-{node.last_segment}; "
        "send the prompt to the node that serves segment 1"
    )


def _ids(ids: Sequence[int], spec: FamilySpec, kind: str) -> Sequence[int]:
    worst = max(ids, default=0)
    if worst >= spec.vocab_size:
        raise InvalidRequestError(
            f"{kind} {worst} is outside the vocabulary; this family has ids 0..{spec.vocab_size - 1}"
        )
    return ids


def _stops(stops: Sequence[str]) -> tuple[str, ...]:
    if len(stops) > MOST_STOPS:
        raise InvalidRequestError(f"{len(stops)} stop strings; give at most {MOST_STOPS}")
    for stop in stops:
        if not 0 < len(stop) <= MOST_STOP_CHARACTERS:
            raise InvalidRequestError(
                f"a stop string of {len(stop)} characters; give 1 to {MOST_STOP_CHARACTERS} characters each"
            )
    return tuple(stops)


def _stop_ids(ids: Sequence[int], spec: FamilySpec) -> Sequence[int]:
    if len(ids) > MOST_STOP_IDS:
        raise InvalidRequestError(f"{len(ids)} stop ids; give at most {MOST_STOP_IDS}")
    return _ids(ids, spec, "stop id")


def _samples(wanted: int) -> int:
    if wanted > MOST_SAMPLES:
        raise InvalidRequestError(f"{wanted} samples of one prompt; ask for at most {MOST_SAMPLES} at a time")
    return max(1, wanted)
