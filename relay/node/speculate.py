"""Speculation: an exit of the entry node drafts, the target's exit verifies many drafts in one message.

Every token is the target exit's own, whatever the drafts: a draft stands only where it is the token that the target
samples at its position (`relay.sampling`), so the text does not depend on lengths, timing or the draft's exit. A round
is the one verb twice: drafts are asked of the early exit, one by one, then the target's is asked about all of them.
While that is under way upstream, drafting goes on behind the drafts that were sent.
"""

import asyncio
import time
from dataclasses import replace

from relay.messages import Answer, Question
from relay.node.tape import Tape
from relay.pace import MOST_DRAFTS, Pace
from relay.policy import SpeculativeExit
from relay.session import Onward, Session


class Speculation:
    """The rounds of one text under one policy."""

    def __init__(
        self,
        session: Session,
        tape: Tape,
        policy: SpeculativeExit,
        draft_exit: int,
        pace: Pace,
        stop_ids: frozenset[int],
    ) -> None:
        self._session = session
        self._tape = tape
        self._policy = policy
        self._draft_exit = draft_exit
        self._pace = pace
        self._stop_ids = stop_ids
        self._begun = False
        """Whether all nodes have all rows but the newest, so that a round's time says what rounds take."""
        self._drafting_ms = 0.0
        """Engine time of the drafts since the last answer."""

    async def round(self, question: Question, most: int) -> Answer:
        """Ask the target's exit for up to `most` tokens, one at least; `question` asks for one.

        The tape's drafts after these tokens may serve the next round.
        """
        tape, pace = self._tape, self._pace
        draft = Question(self._draft_exit, want=1, sampling=question.sampling)
        most -= 1
        while self._begun and self._goes_on(min(most, MOST_DRAFTS)):
            await self._draft(draft)
        sent = tuple(tape.drafts[: min(most, MOST_DRAFTS)])
        shortened_from = self._draft_exit if self._policy.shorten else 0
        asked = replace(question, want=len(sent) + 1, drafts=sent, draft_exit=shortened_from)
        started = time.perf_counter()
        reply = await self._session.consume(tape.message(asked, tape.decided + len(sent)))
        if isinstance(reply, Onward):
            ahead = most if reply.question.drafts == sent else 0  # behind drafts that an exit here took off none stands
            reply = await self._beside(reply, draft, ahead, started)
        elif isinstance(reply, Answer):
            self._verified(len(sent), started)
        assert isinstance(reply, Answer), "the entry node's own log is never behind itself"
        reply = replace(reply, engine_ms=reply.engine_ms + self._drafting_ms)
        self._begun, self._drafting_ms = True, 0.0
        for token, made, confidence in zip(reply.tokens, tape.drafts, tape.confidence, strict=False):
            pace.checked(confidence, right=token == made)
        return reply

    def _goes_on(self, most: int) -> bool:
        """Whether to make one more draft before asking the target's exit."""
        if not self._may_draft(most):
            return False
        if self._policy.length is not None:
            return len(self._tape.drafts) < self._policy.length
        return self._pace.pays(self._tape.confidence)

    def _may_draft(self, most: int) -> bool:
        drafts = self._tape.drafts
        return len(drafts) < most and not (drafts and drafts[-1] in self._stop_ids)

    async def _draft(self, question: Question) -> None:
        """Add a draft."""
        message = self._tape.message(question)
        started = time.perf_counter()
        reply = await self._session.consume(message)
        assert isinstance(reply, Answer), "the entry node's own log is never behind itself"
        if len(message.rows) == 1:
            self._pace.drafted((time.perf_counter() - started) * 1e3)
        self._drafting_ms += reply.engine_ms
        self._tape.draft(reply.tokens[-1], reply.confidence[-1])
        await asyncio.sleep(0)  # short work may be done at once, and others have their turn too

    async def _beside(self, rest: Onward, question: Question, most: int, started: float) -> Answer:
        """The answer to a verification, and more drafts behind its own meanwhile, up to `most` in all."""
        flight = asyncio.ensure_future(self._verify(rest, started))
        sent = len(rest.question.drafts)
        try:
            await asyncio.sleep(0)  # it is on its way: from now on drafts are made away from the event loop
            while not flight.done() and self._may_draft(min(most, sent + MOST_DRAFTS)):
                elapsed_ms, made = (time.perf_counter() - started) * 1e3, len(self._tape.drafts) - sent
                if not self._pace.goes_ahead(elapsed_ms, sent, made, self._policy.length):
                    break
                await self._draft(question)
            return await flight
        finally:
            flight.cancel()
            await asyncio.wait([flight])

    async def _verify(self, rest: Onward, started: float) -> Answer:
        answer = await self._session.onward(rest)
        self._verified(len(rest.question.drafts), started)
        return answer

    def _verified(self, length: int, started: float) -> None:
        if self._begun:
            self._pace.verified(length, (time.perf_counter() - started) * 1e3)
