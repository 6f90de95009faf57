"""The loop at the entry node: ids in, one decided token after the other out."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from relay.messages import Answer, Question
from relay.node.job import Job
from relay.node.speculate import Speculation
from relay.node.stops import Reason, StopStrings
from relay.node.tape import Tape
from relay.node.text import TextStream
from relay.pace import Pace
from relay.policy import FixedExit, Policy, SpeculativeExit, rule_of, target_exit
from relay.sampling import Sampling, penalised
from relay.session import Session


@dataclass(frozen=True)
class Decided:
    """A token, final."""

    sample: int
    id: int
    text: str
    position: int
    answer: Answer
    """Of this token alone."""
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


Paces = Callable[[SpeculativeExit], tuple[int, Pace]]
"""The exit that drafts under a policy, and what is known of its pace."""


async def generate(
    session: Session,
    job: Job,
    policy: Callable[[], Policy],
    paces: Paces,
    decoder: Callable[[], TextStream],
    started: float,
) -> AsyncIterator[Decided | Finished]:
    """The job's samples, one after the other: the tokens of each, then its end. Before each token, or each round of a
    speculation, the policy is asked for. `started` is when the request came, by `time.perf_counter`.

    The session may hold positions already. What it shares with the prompt is not computed again: so a second sample, or
    a conversation's next turn, is going back.
    """
    for index in range(job.samples):
        tape = Tape(session.history, job.ids, job.codec)
        asking = _Asking(session, job, replace(job.sampling, index=index), tape, paces)
        text, stops = decoder(), StopStrings(job.stop)
        end: Finished | None = None
        while end is None:
            answer = await asking.ask(policy())
            for one in answer.each():
                token, position = one.tokens[0], tape.decided
                tape.decide(token)
                count = tape.decided - len(job.ids)
                stopped, full = token in job.stop_ids, count == job.most
                shown = stops.feed(text.step(token, last=stopped or full), last=stopped or full)
                yield Decided(index, token, shown, position, one, (time.perf_counter() - started) * 1e3)
                if stopped or full or stops.found is not None:
                    reason: Reason = "stop" if stopped or stops.found is not None else job.limit
                    end = Finished(index, reason, count, stops.found or "", tape.cached)
                    break
        yield end


class _Asking:
    """Asks the session for the next tokens of one sample, as the policy of the moment says."""

    def __init__(self, session: Session, job: Job, sampling: Sampling, tape: Tape, paces: Paces) -> None:
        self._session = session
        self._job = job
        self._sampling = sampling
        self._tape = tape
        self._paces = paces
        self._speculation: tuple[Policy, Speculation] | None = None

    async def ask(self, policy: Policy) -> Answer:
        """The next token; the next few, if the policy is speculative."""
        job, tape = self._job, self._tape
        left = job.most - (tape.decided - len(job.ids))
        question = Question(
            target_exit(policy, tape.decided, job.deepest),
            want=1,
            sampling=self._sampling,
            rule=rule_of(policy),
            logprobs=job.logprobs,
            logits=job.logits,
            adjust=penalised(job.penalties, job.ids, tape.ids[len(job.ids) : tape.decided]),
        )
        if isinstance(policy, SpeculativeExit):
            if self._speculation is None or self._speculation[0] != policy:
                made = Speculation(self._session, tape, policy, *self._paces(policy), job.stop_ids)
                self._speculation = policy, made
            return await self._speculation[1].round(question, left)
        self._speculation = None
        tape.drop()
        if isinstance(policy, FixedExit) and self._session.hands_over(policy.exit):
            question = replace(question, more=min(policy.burst, left - 1))
        answer = await self._session.advance(tape.message(question))
        assert isinstance(answer, Answer), "the entry node's own log is never behind itself"
        return answer
