"""The loop at the entry node: ids in, one decided token after the other out. It owns the log of token ids."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import numpy as np

from relay import chain
from relay.messages import Advance, Answer, Question
from relay.node.job import Job
from relay.node.stops import Reason, StopStrings
from relay.node.text import TextStream
from relay.policy import Policy, rule_of, target_exit
from relay.sampling import penalised
from relay.session import Session
from relay.v1.relay_pb2 import CODEC_F32


@dataclass(frozen=True)
class Decided:
    """A token, final."""

    sample: int
    id: int
    text: str
    position: int
    answer: Answer
    elapsed_ms: float


@dataclass(frozen=True)
class Finished:
    """The end of a text."""

    sample: int
    reason: Reason
    tokens: int
    stop: str = ""
    """The stop string that ended it."""
    cached: int = 0
    """Positions of the prompt that were not computed again."""


async def generate(
    session: Session, job: Job, policy: Callable[[], Policy], decoder: Callable[[], TextStream], started: float
) -> AsyncIterator[Decided | Finished]:
    """The job's samples, one after the other: the tokens of each, then its end. Each next token asks for the policy.
    `started` is when the request came, by `time.perf_counter`.

    The session may hold positions already. What it shares with the prompt is not computed again: so a second sample, or
    a conversation's next turn, is going back.
    """
    prompt = chain.extend(session.history.value(-1), job.ids, CODEC_F32)
    for index in range(job.samples):
        cached = min(session.history.shared(prompt), len(job.ids) - 1)
        ids, values = list(job.ids), list(prompt)
        text, stops = decoder(), StopStrings(job.stop)
        sampling = replace(job.sampling, index=index)
        end: Finished | None = None
        base = cached
        while end is None:
            current = policy()
            question = Question(
                target_exit(current, len(ids), job.deepest),
                want=1,
                sampling=sampling,
                rule=rule_of(current),
                logprobs=job.logprobs,
                logits=job.logits,
                adjust=penalised(job.penalties, job.ids, ids[len(job.ids) :]),
            )
            fresh = np.array(ids[base:], np.int64)
            anchor = session.history.value(base - 1)
            answer = await session.advance(Advance(base, anchor, tuple(values[base:]), fresh, question))
            assert isinstance(answer, Answer), "the entry node's own log is never behind itself"
            base = len(ids)
            token, position = answer.tokens[-1], len(ids)
            ids.append(token)
            values += chain.extend(values[-1], [token], CODEC_F32)
            stopped = token in job.stop_ids
            full = len(ids) - len(job.ids) == job.most
            shown = stops.feed(text.step(token, last=stopped or full), last=stopped or full)
            yield Decided(index, token, shown, position, answer, (time.perf_counter() - started) * 1e3)
            if stopped or full or stops.found is not None:
                reason: Reason = "stop" if stopped or stops.found is not None else job.limit
                end = Finished(index, reason, len(ids) - len(job.ids), stops.found or "", cached)
        yield end
