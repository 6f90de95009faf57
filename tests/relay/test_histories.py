"""Random histories of `Advance` over three nodes, with lost, late and repeated messages and nodes that lose everything.

Whatever happens on the way, every answer is the one that the exit gives for the token ids.
"""

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import chain, hop
from relay.errors import UnreachableError
from relay.fence import Fence, Stale
from relay.hop import Envelope, Hop
from relay.messages import Advance, Answer, Behind, Question
from relay.node.sessions import Held
from relay.session import Session
from tests.relay.fakes import VOCAB, FakeEngine, expected_token

GENESIS = chain.genesis("test")
SEGMENTS = 3
FAULTS = ("none", "lost message", "lost reply", "repeated", "late copy", "restart")


class World:
    """Three nodes of one session each, and the accidents between them, drawn from a seed."""

    def __init__(self, seed: int, fault_rate: float) -> None:
        self.random = random.Random(seed)
        self.fault_rate = fault_rate
        self.late: list[tuple[int, Envelope]] = []
        self.arrivals: list[asyncio.Future[Answer | Behind | Stale]] = []
        self.nodes: dict[int, Held] = {}
        for index in range(SEGMENTS, 0, -1):
            self.restart(index)

    def restart(self, index: int) -> None:
        upstream = None
        if index < SEGMENTS:

            async def connect() -> "FaultyTransport":
                return FaultyTransport(self, index + 1)

            upstream = Hop(connect, row_bytes=hop.ROWS_PER_MESSAGE_BYTES // 3)
        self.nodes[index] = Held(Session(FakeEngine((index,)), GENESIS, f"tier{index}", upstream))

    def deliver_late(self) -> None:
        """A message that was delayed on the way arrives now, beside whatever is going on; its reply reaches nobody."""
        if self.late and self.random.random() < 0.5:
            index, envelope = self.late.pop(self.random.randrange(len(self.late)))
            self.arrivals.append(asyncio.ensure_future(self.nodes[index].receive(envelope)))


class FaultyTransport:
    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index

    async def exchange(self, envelope: Envelope) -> Answer | Behind | Stale:
        world = self.world
        world.deliver_late()
        message = envelope.message
        envelope = replace(envelope, message=replace(message, rows=np.array(message.rows)))
        faulty = world.random.random() < world.fault_rate
        match world.random.choice(FAULTS[1:]) if faulty else "none":
            case "lost message":
                raise ConnectionError("lost")
            case "lost reply":
                await world.nodes[self.index].receive(envelope)
                raise ConnectionError("lost")
            case "repeated":
                first = await world.nodes[self.index].receive(envelope)
                again = await world.nodes[self.index].receive(envelope)
                assert again == first, "a message that was answered gets the stored reply"
                return again
            case "late copy":
                world.late.append((self.index, envelope))
                raise ConnectionError("late")
            case "restart":
                world.restart(self.index)
                raise ConnectionError("restarted")
        return await world.nodes[self.index].receive(envelope)

    async def close(self) -> None:
        pass


async def ask(world: World, ids: list[int], base: int, question: Question) -> Answer | Behind:
    history = chain.extend(GENESIS, ids, 1)
    anchor = history[base - 1] if base else GENESIS
    message = Advance(base, anchor, tuple(history[base:]), np.array(ids[base:]), question)
    return await world.nodes[1].session.advance(message)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (0.0,) * 6)


steps = st.lists(
    st.tuples(
        st.integers(1, SEGMENTS),  # exit
        st.integers(1, 5),  # new ids
        st.integers(0, 6),  # ids to take back first
        st.integers(0, 3),  # drafts, of which some are right
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(steps=steps, seed=st.integers(0, 2**32), fault_rate=st.sampled_from([0.0, 0.1, 0.4]))
def test_every_answer_is_the_exits_own(steps: list[tuple[int, int, int, int]], seed: int, fault_rate: float) -> None:
    asyncio.run(run_history(steps, World(seed, fault_rate)))


async def run_history(steps: list[tuple[int, int, int, int]], world: World) -> None:
    ids: list[int] = []
    for exit_, fresh, back, n_drafts in steps:
        del ids[max(0, len(ids) - back) :]
        ids += [world.random.randrange(VOCAB) for _ in range(fresh)]
        drafts: list[int] = []
        for _ in range(n_drafts):
            right = expected_token(ids + drafts, exit_)
            drafts.append(right if world.random.random() < 0.7 else (right + 1) % VOCAB)
        sent = ids + drafts
        base = min(len(world.nodes[1].session.history), len(ids) - 1)
        while base and world.nodes[1].session.history.value(base - 1) != chain.extend(GENESIS, sent, 1)[base - 1]:
            base -= 1
        try:
            answer = await ask(world, sent, base, Question(exit_, want=n_drafts + 1, drafts=tuple(drafts)))
        except UnreachableError:
            continue  # every attempt at the upstream failed; the session goes on with the next request
        assert isinstance(answer, Answer)
        expected = [expected_token(ids, exit_)]
        for i, draft in enumerate(drafts):
            if draft != expected[-1]:
                break
            expected.append(expected_token(ids + drafts[: i + 1], exit_))
        assert list(answer.tokens) == expected
        assert (answer.exit, answer.tier, answer.cached) == (exit_, f"tier{exit_}", len(sent))
        ids = sent[: len(ids) + len(expected) - 1]
    await asyncio.gather(*world.arrivals)


def test_rows_after_a_gap_are_refused_with_marks_and_change_nothing() -> None:
    async def scenario() -> None:
        world = World(0, 0.0)
        ids = list(range(10))
        await ask(world, ids, 0, Question(1, want=1))
        reply = await ask(world, [*ids, 1, 2, 3], 12, Question(1, want=1))
        assert isinstance(reply, Behind)
        assert (reply.cached, [m.position for m in reply.marks]) == (10, [9, 8, 6, 2])
        assert len(world.nodes[1].session.history) == 10

    asyncio.run(scenario())


def test_a_token_that_leaves_early_costs_the_deeper_nodes_nothing_until_they_are_asked() -> None:
    async def scenario() -> None:
        world = World(0, 0.0)
        await ask(world, [1, 2, 3], 0, Question(1, want=1))
        await ask(world, [1, 2, 3, 4], 3, Question(1, want=1))
        assert len(world.nodes[2].session.history) == 0
        await ask(world, [1, 2, 3, 4, 5], 4, Question(2, want=1))
        assert (len(world.nodes[2].session.history), len(world.nodes[3].session.history)) == (5, 0)

    asyncio.run(scenario())


def test_the_fence_refuses_an_older_stream_and_names_the_newer() -> None:
    fence: Fence[str] = Fence()
    assert fence.check(1, 1) is None
    fence.store(1, "first")
    assert fence.check(1, 1) == "first"
    assert fence.check(3, 1) is None
    assert fence.check(2, 9) == Stale(3)
    fence.store(1, "third")
    assert fence.check(3, 1) == "third"
