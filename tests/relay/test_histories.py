"""Random histories of `Advance` over a few nodes, with lost, late and repeated messages and nodes that lose everything.

Whatever happens on the way, every answer is the one that the exit gives for the token ids.
"""

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import hop, session
from relay.errors import UnreachableError
from relay.fence import Fence, Stale, next_epoch
from relay.messages import Answer, Behind, Question
from relay.names import Codec
from relay.policy import Rule
from relay.sampling import Sampling, sample
from tests.relay.fakes import VOCAB, FakeEngine, expected_logits, limits
from tests.relay.world import RULES, SAMPLINGS, SEGMENTS, World, ask, cut_short, decided, shared_base, shortened

Step = tuple[int, int, int, int, Sampling, Rule | None, int, Codec, int]
ENGINES = {index: FakeEngine((index,)) for index in range(1, SEGMENTS + 1)}
OF_IDS = {1: FakeEngine((1,)), 2: FakeEngine((1, 2)), 3: FakeEngine((1, 2, 3))}
"""Nodes that may be sent token ids."""


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, and patience with nodes that fail all the time; and a few rows take several forwards, between which
    work may be given up.
    """
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (0.0,) * 20)
    monkeypatch.setattr(hop, "_MOST_CORRECTIONS", 1000)
    monkeypatch.setattr(session, "ROWS_AT_ONCE", 3)


steps = st.lists(
    st.tuples(
        st.integers(1, SEGMENTS),  # exit
        st.integers(0, 5),  # new ids; with none, the same position may be asked again
        st.integers(0, 6),  # ids to take back first
        st.integers(0, 3),  # drafts, of which some are right
        st.sampled_from(SAMPLINGS),
        st.sampled_from(RULES),
        st.integers(0, SEGMENTS),  # the exit that made the drafts; those after it may take some off
        st.sampled_from([Codec.F32] * 3 + [Codec.INT8, Codec.INT4]),  # rows of another codec are another history
        st.integers(0, 4),  # tokens more than the one that is asked for, where there are no drafts and no rule
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(steps=steps, seed=st.integers(0, 2**32), fault_rate=st.sampled_from([0.0, 0.1, 0.4]), ahead=st.booleans())
def test_every_answer_is_the_exits_own(steps: list[Step], seed: int, fault_rate: float, *, ahead: bool) -> None:
    asyncio.run(run_history(steps, World(ENGINES, seed, fault_rate, sends_ahead=ahead)))


@settings(max_examples=300, deadline=None)
@given(steps=steps, seed=st.integers(0, 2**32), fault_rate=st.sampled_from([0.0, 0.1, 0.4]))
def test_every_answer_is_the_exits_own_where_nodes_send_token_ids(
    steps: list[Step], seed: int, fault_rate: float
) -> None:
    asyncio.run(run_history(steps, World(OF_IDS, seed, fault_rate, sends_ids=True)))


@settings(max_examples=150, deadline=None)
@given(
    histories=st.lists(steps, min_size=2, max_size=5),
    seed=st.integers(0, 2**32),
    fault_rate=st.sampled_from([0.0, 0.1, 0.4]),
    cut=st.sampled_from([(16, 8, 512), (2, 1, 5), (1, 1, 3)]),
)
def test_sessions_that_share_the_nodes_do_not_notice_each_other(
    histories: list[list[Step]], seed: int, fault_rate: float, cut: tuple[int, int, int]
) -> None:
    """Their rows share forwards, and long runs are cut, in whatever way these limits allow."""

    async def scenario() -> None:
        worlds = [World(ENGINES, seed + i, fault_rate) for i in range(len(histories))]
        await asyncio.gather(*(run_history(steps, world) for steps, world in zip(histories, worlds, strict=True)))

    with limits(*cut):
        asyncio.run(scenario())
    if len(histories) > 2:
        assert max(ENGINES[1].batches) > 1


async def run_history(steps: list[Step], world: World) -> None:
    ids: list[int] = []
    for exit_, fresh, back, n_drafts, sampling, rule, draft_exit, codec, more in steps:
        logits_at = partial(expected_logits, codec=Codec.F32 if world.sends_ids else codec)
        if world.random.random() < 0.1:
            world.nodes[1].session.pause()
        del ids[max(0, len(ids) - back) :]
        ids += [world.random.randrange(VOCAB) for _ in range(fresh or not ids)]
        drafts: list[int] = []
        for _ in range(n_drafts):
            right = sample(logits_at(ids + drafts, exit_), sampling, len(ids + drafts))
            drafts.append(right if world.random.random() < 0.7 else (right + 1) % VOCAB)
        sent = ids + drafts
        question = Question(
            exit_,
            n_drafts + 1,
            drafts=tuple(drafts),
            sampling=sampling,
            rule=rule,
            draft_exit=draft_exit,
            more=0 if drafts or rule else more,
        )
        while world.random.random() < world.fault_rate:
            await cut_short(world, ask(world, sent, shared_base(world, sent, n_drafts + 1, codec), question, codec))
        try:
            answer = await ask(world, sent, shared_base(world, sent, n_drafts + 1, codec), question, codec)
        except UnreachableError:
            continue  # every attempt at the upstream failed; the session goes on with the next request
        assert isinstance(answer, Answer)
        left = shortened(logits_at, ids, question)
        expected_exit, expected = decided(logits_at, ids, left)
        for _ in range(question.more):
            expected += decided(logits_at, ids + expected, question)[1]
        assert list(answer.tokens) == expected
        assert (answer.exit, answer.tier) == (expected_exit, world.tier_of(expected_exit))
        assert len(ids) + len(left.drafts) <= answer.cached <= len(sent) + question.more
        ids += expected[: world.random.randint(0, len(expected))]
    await asyncio.gather(*world.arrivals)


def test_rows_after_a_gap_are_refused_with_marks_and_change_nothing() -> None:
    async def scenario() -> None:
        world = World(ENGINES, 0, 0.0)
        ids = list(range(10))
        await ask(world, ids, 0, Question(1, want=1))
        reply = await ask(world, [*ids, 1, 2, 3], 12, Question(1, want=1))
        assert isinstance(reply, Behind)
        assert (reply.cached, [m.position for m in reply.marks]) == (10, [9, 8, 6, 2])
        assert len(world.nodes[1].session.history) == 10

    asyncio.run(scenario())


def test_a_token_that_leaves_early_costs_the_deeper_nodes_nothing_until_they_are_asked() -> None:
    async def scenario() -> None:
        world = World(ENGINES, 0, 0.0)
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


def test_two_senders_that_were_told_the_same_epoch_do_not_take_the_same_next_one() -> None:
    taken = {next_epoch(current=5 << 32) for _ in range(100)}
    assert len(taken) > 90
    assert all(epoch > 5 << 32 | 0xFFFFFFFF for epoch in taken)


def test_going_back_costs_no_extra_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ROWS_AT_ONCE", 100)

    async def scenario() -> None:
        world = World(ENGINES, 0, 0.0, rows_per_message=100)
        await ask(world, [1, 2, 3, 4, 5], 0, Question(2, want=1))
        before = world.exchanges
        await ask(world, [1, 2, 9, 9, 9], 2, Question(2, want=1))
        assert world.exchanges == before + 1

    asyncio.run(scenario())
