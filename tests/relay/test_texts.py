"""Random texts over nodes that fail: policies that change on the way, requests that are given up and asked for more.

Whatever was drafted, sent or made ahead, every token is the one that the policy's exit chooses after those before it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from relay import hop, session
from relay.batch import alone
from relay.errors import UnreachableError
from relay.messages import Question
from relay.node.generate import Decided, Finished, generate
from relay.node.job import Job
from relay.node.text import TextStream
from relay.pace import MOST_DRAFTS, Pace
from relay.policy import (
    ConfidenceExit,
    ExitSchedule,
    FixedExit,
    Policy,
    SpeculativeExit,
    drafting_exit,
    rule_of,
    target_exit,
)
from relay.views import Work
from tests.relay.fakes import VOCAB, FakeEngine, expected_logits
from tests.relay.world import SAMPLINGS, SEGMENTS, World, ask, cut_short, decided

CHAINS = {
    "a segment each": {1: FakeEngine((1,)), 2: FakeEngine((2,)), 3: FakeEngine((3,))},
    "two segments first": {1: FakeEngine((1, 2)), 2: FakeEngine((3,))},
    "all in one": {1: FakeEngine((1, 2, 3))},
    "ids": {1: FakeEngine((1,)), 2: FakeEngine((1, 2, 3))},
    "ids, two segments first": {1: FakeEngine((1, 2)), 2: FakeEngine((1, 2, 3))},
}
POLICIES: Sequence[Policy] = [
    FixedExit(1),
    FixedExit(2, burst=3),
    FixedExit(3),
    FixedExit(3, burst=5),
    ExitSchedule(5),
    ConfidenceExit(0.3),
    *[SpeculativeExit()] * 3,
    SpeculativeExit(draft_exit=1, shorten=True),
    SpeculativeExit(exit=2),
    SpeculativeExit(length=3, draft_exit=1),
]
T = TypeVar("T")
STOP = 5
WORK_MS = 1e3
WORDS = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, and patience with nodes that fail all the time; and a few rows take several forwards, between which
    work may be given up.
    """
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (0.0,) * 20)
    monkeypatch.setattr(hop, "_MOST_CORRECTIONS", 1000)
    monkeypatch.setattr(session, "ROWS_AT_ONCE", 3)


class AnyPace(Pace):
    """Rounds of any length, and any number of drafts made ahead."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.chance = world.random

    def pays(self, confidences: Sequence[float]) -> bool:
        return len(confidences) < MOST_DRAFTS and self.chance.random() < 0.7

    def goes_ahead(self, elapsed_ms: float, sent: int, made: int, length: int | None = None) -> bool:
        return self.chance.random() < 0.7


@settings(max_examples=200, deadline=None)
@given(
    nodes=st.sampled_from(sorted(CHAINS)),
    seed=st.integers(0, 2**32),
    fault_rate=st.sampled_from([0.0, 0.1, 0.4]),
    steered=st.sampled_from([0.0, 0.5]),
    send=st.sampled_from(["rows", "ahead"]),
)
def test_every_token_is_the_policys(nodes: str, seed: int, fault_rate: float, steered: float, send: str) -> None:
    sends = {"sends_ids": True} if nodes.startswith("ids") else {"sends_ahead": send == "ahead"}
    world = World(CHAINS[nodes], seed, fault_rate, rows_per_message=10, **sends)
    asyncio.run(converse(world, steered))


async def converse(world: World, steered: float) -> None:
    """A few requests of one session, each of which goes on from a part of the text before."""
    chance, pace = world.random, AnyPace(world)
    ids: list[int] = []
    for _ in range(4):
        del ids[chance.randint(0, len(ids)) :]
        ids += [chance.randrange(VOCAB) for _ in range(chance.randint(1, 8))]
        request = _Request(world, ids, steered, pace)
        if chance.random() < world.fault_rate:
            await cut_short(world, request.run())
            world.nodes[1].session.pause()
        try:
            ids = await request.run()
        except UnreachableError:
            continue
    await asyncio.gather(*world.arrivals)


class _Request:
    def __init__(self, world: World, prompt: Sequence[int], steered: float, pace: Pace) -> None:
        self.world, self.steered, self.pace = world, steered, pace
        chance = world.random
        self.job = Job(
            tuple(prompt),
            most=chance.randint(1, 20),
            limit="length",
            policy=chance.choice(POLICIES),
            deepest=SEGMENTS,
            stop_ids=frozenset([STOP]),
            stop=("w7 w",) if chance.random() < 0.3 else (),
            sampling=chance.choice(SAMPLINGS),
            samples=chance.choice([1, 1, 2]),
            logprobs=2,
            logits=True,
        )
        self.policy = self.job.policy

    def policy_now(self) -> Policy:
        if self.world.random.random() < self.steered:
            self.policy = self.world.random.choice(POLICIES)
        return self.policy

    def paces(self, policy: SpeculativeExit) -> tuple[int, Pace]:
        return drafting_exit(policy, SEGMENTS, self.world.engines[1].segments[-1]), self.pace

    async def run(self) -> list[int]:
        """The prompt and the last sample, every token compared."""
        job = self.job
        decoder = partial(TextStream, WORDS, job.ids)
        steps: AsyncIterator[Decided | Finished] = generate(
            self.world.nodes[1].session, job, self.policy_now, self.paces, decoder, started=0.0
        )
        ids, text = list(job.ids), ""
        async with aclosing(steps):  # type: ignore[type-var]
            async for step in steps:
                if isinstance(step, Decided):
                    self.compare(step, ids)
                    ids.append(step.id)
                    text += step.text
                    continue
                assert step.tokens == len(ids) - len(job.ids)
                if step.reason == "length":
                    assert step.tokens == job.most and ids[-1] != STOP
                else:
                    assert ids[-1] == STOP or step.stop in job.stop
                assert STOP not in ids[len(job.ids) : -1] and not any(stop in text for stop in job.stop)
                ended, ids, text = ids, list(job.ids), ""
        return ended

    def compare(self, step: Decided, before: list[int]) -> None:
        question = Question(
            target_exit(self.policy, len(before), SEGMENTS),
            want=1,
            sampling=replace(self.job.sampling, index=step.sample),
            rule=rule_of(self.policy),
        )
        exit_, (token,) = decided(expected_logits, before, question)
        answer = step.answer
        expected = (token, exit_, self.world.tier_of(exit_), len(before))
        assert (step.id, answer.exit, answer.tier, step.position) == expected
        assert answer.logits is not None and (answer.logits == expected_logits(before, exit_)).all()
        assert len(answer.logprobs) == len(answer.confidence) == len(answer.logits) == 1
        assert answer.logprobs[0].top[0][1] <= 0 and answer.engine_ms >= 0


class AtOnce(FakeEngine):
    """Does all work at once, as a real engine does with what is short, and counts what it did in a row."""

    in_a_row = most_in_a_row = works = 0

    async def run(self, work: Work[T], owner: object, *, at_once: bool = True) -> tuple[T, float]:
        self.works += 1
        self.in_a_row += 1
        self.most_in_a_row = max(self.most_in_a_row, self.in_a_row)
        return alone(work), WORK_MS


async def told(engine: AtOnce, policy: Policy) -> list[Decided]:
    """A text of one node with this engine."""
    world = World({1: engine}, 0, 0.0)
    job = Job((3, 4), 24, "length", policy, SEGMENTS, frozenset())
    paces = lambda _: (1, Pace())  # noqa: E731
    steps = generate(world.nodes[1].session, job, lambda: policy, paces, partial(TextStream, WORDS, job.ids), 0.0)
    return [step async for step in steps if isinstance(step, Decided)]


def test_others_have_their_turn_between_the_tokens_of_a_burst_and_the_drafts_of_a_speculation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "ROWS_AT_ONCE", 512)

    async def scenario() -> None:
        engine = AtOnce((1, 2, 3))

        async def other() -> None:
            while True:
                engine.in_a_row = 0
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(other())
        await ask(World({1: engine}, 0, 0.0), [3, 4], 0, Question(3, want=1, more=20))
        await told(engine, SpeculativeExit(length=20))
        beside.cancel()
        assert engine.works > 40 and engine.most_in_a_row < 5

    asyncio.run(scenario())


@pytest.mark.parametrize("policy", [FixedExit(3), SpeculativeExit(length=5)])
def test_the_engine_time_of_all_tokens_is_that_of_all_work(policy: Policy) -> None:
    engine = AtOnce((1, 2, 3))
    steps = asyncio.run(told(engine, policy))
    assert sum(step.answer.engine_ms for step in steps) == engine.works * WORK_MS
