"""The loop at the entry node: ids in, one decided token after the other out. It owns the log of token ids."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from relay import chain
from relay.errors import InvalidRequestError, PromptTooLongError, UnknownExitError
from relay.messages import Advance, Answer, Logits, Question
from relay.node.text import TextStream
from relay.policy import FixedExit, Policy, target_exit
from relay.session import Session
from relay.v1.relay_pb2 import CODEC_F32

Reason = Literal["stop", "length", "context"]
"""Why a text ended: a stop id, `max_tokens`, or a full context."""


@dataclass(frozen=True)
class Job:
    """One checked request."""

    ids: tuple[int, ...]
    """The prompt."""
    most: int
    """Tokens to decide at most; never beyond the context."""
    limit: Reason
    """Why the text ends if it reaches `most`."""
    policy: Policy
    deepest: int
    """The deepest exit that a schedule may draw."""
    stop_ids: frozenset[int]
    logits: bool = False


@dataclass(frozen=True)
class Decided:
    """A token, final."""

    id: int
    text: str
    position: int
    answer: Answer
    elapsed_ms: float
    logits: Logits | None


def check(ids: Sequence[int], policy: Policy, *, vocab_size: int, context: int, granularity: int) -> None:
    """Raise the `InvalidRequestError` that says what is wrong with a request."""
    if not ids:
        raise InvalidRequestError("the prompt is empty; give at least one token")
    if len(ids) > context - 1:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens; this family's context is {context}, so send at most {context - 1}"
        )
    worst = max(ids)
    if worst >= vocab_size:
        raise InvalidRequestError(
            f"token id {worst} is outside the vocabulary; this family has ids 0..{vocab_size - 1}"
        )
    if isinstance(policy, FixedExit) and not 1 <= policy.exit <= granularity:
        raise UnknownExitError(f"exit {policy.exit} is unknown; this family has exits 1..{granularity}")


async def generate(session: Session, job: Job, decoder: TextStream) -> AsyncIterator[Decided | Reason]:
    """Decide up to `job.most` tokens, each at the exit that the policy names; last, the reason for the end."""
    started = time.perf_counter()
    ids = list(job.ids)
    for count in range(1, job.most + 1):
        base = len(session.history)
        anchor = session.history.value(base - 1)
        fresh = ids[base:]
        message = Advance(
            base=base,
            anchor=anchor,
            chain=tuple(chain.extend(anchor, fresh, CODEC_F32)),
            rows=np.array(fresh, np.int64),
            question=Question(target_exit(job.policy, len(ids), job.deepest), want=1, logits=job.logits),
        )
        answer = await session.advance(message)
        assert isinstance(answer, Answer), "the entry node's own log is never behind itself"
        token = answer.tokens[-1]
        elapsed_ms = (time.perf_counter() - started) * 1e3
        stopped = token in job.stop_ids
        text = decoder.step(token, last=stopped or count == job.most)
        yield Decided(token, text, len(ids), answer, elapsed_ms, answer.logits)
        ids.append(token)
        if stopped:
            yield "stop"
            return
    yield job.limit
