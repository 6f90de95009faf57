"""Rows go up while the next are computed, or before anybody asks; nothing waits for what it does not need."""

import asyncio
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from relay import session
from relay.client.aio import AsyncRelayClient
from relay.errors import BusyError
from relay.hop import Envelope
from relay.messages import Answer, Question
from relay.policy import ConfidenceExit, FixedExit
from relay.sampling import sample
from relay.views import Made
from tests.relay.fakes import VOCAB, FakeEngine, FakeGraph, FakeView, expected_logits
from tests.relay.processes import eventually
from tests.relay.servers import address, chain, single, text
from tests.relay.test_relay import same
from tests.relay.world import RULES, SEGMENTS, World, ask, decided

FORWARD = 4
IDS = list(range(1, 18))
SURE = Question(exit=3, want=1, rule=RULES[1])
"""Exit 1 is, at `IDS`."""


class Nodes(World):
    """Three nodes without accidents, that note their forwards: the segment and the rows, in the order of all."""

    def __init__(self, *, sends_ahead: bool = False) -> None:
        self.forwards: list[tuple[int, int]] = []
        engines = {index: WatchedEngine(index, self.forwards) for index in range(1, SEGMENTS + 1)}
        super().__init__(engines, 0, 0.0, FORWARD, sends_ahead=sends_ahead)

    @property
    def at_work(self) -> list[int]:
        return [segment for segment, _ in self.forwards]

    async def answer(self, ids: list[int], base: int, question: Question) -> Answer:
        answer = await ask(self, ids, base, question)
        assert isinstance(answer, Answer)
        prefix = ids[: len(ids) - len(question.drafts)]
        if not question.draft_exit:
            assert (answer.exit, list(answer.tokens)) == decided(expected_logits, prefix, question)
        return answer


class WatchedEngine(FakeEngine):
    def __init__(self, segment: int, forwards: list[tuple[int, int]]) -> None:
        super().__init__((segment,))
        self._forwards = forwards

    def open_segment(self, index: int) -> FakeView:
        return WatchedView(self._segments[index], self._forwards)


class WatchedView(FakeView):
    def __init__(self, graph: FakeGraph, forwards: list[tuple[int, int]]) -> None:
        super().__init__(graph)
        self._forwards = forwards

    def run(self, rows: np.ndarray, past: int, wanted: int) -> Made:
        self._forwards.append((self.graph.index, len(rows)))
        return super().run(rows, past, wanted)


@pytest.fixture(autouse=True)
def short_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ROWS_AT_ONCE", FORWARD)


def test_three_nodes_work_on_one_prompt_at_the_same_time() -> None:
    nodes = Nodes()
    asyncio.run(nodes.answer(IDS, 0, Question(exit=3, want=1)))
    assert nodes.at_work.count(1) == nodes.at_work.count(2) == nodes.at_work.count(3) == 5
    last_of_first = len(nodes.at_work) - 1 - nodes.at_work[::-1].index(1)
    assert {2, 3} <= set(nodes.at_work[:last_of_first])


def test_rows_that_no_exit_may_need_are_not_sent() -> None:
    for question in (Question(exit=1, want=1), SURE):
        nodes = Nodes()
        asyncio.run(nodes.answer(IDS, 0, question))
        assert set(nodes.at_work) == {1} and nodes.exchanges == 0
    nodes = Nodes()
    asyncio.run(nodes.answer(IDS, 0, Question(exit=2, want=1)))
    assert set(nodes.at_work) == {1, 2}


def test_where_an_exit_on_the_way_may_decide_nothing_goes_beyond_it_before_it_has() -> None:
    unsure = Question(exit=3, want=1, rule=RULES[3])
    assert decided(expected_logits, IDS, unsure)[0] == 2
    nodes = Nodes()
    asyncio.run(nodes.answer(IDS, 0, unsure))
    assert set(nodes.at_work) == {1, 2}


def test_drafts_that_an_exit_on_the_way_takes_off_go_no_further() -> None:
    right = sample(expected_logits(IDS, 3), Question(1, 1).sampling, len(IDS))
    drafts = tuple((right + 1 + i) % VOCAB for i in range(6))
    nodes = Nodes()
    asyncio.run(nodes.answer([*IDS, *drafts], 0, Question(exit=3, want=7, drafts=drafts, draft_exit=1)))
    assert sum(rows for segment, rows in nodes.forwards if segment == 2) == len(IDS) + 6
    assert len(IDS) <= sum(rows for segment, rows in nodes.forwards if segment == 3) < len(IDS) + 6


def test_rows_sent_ahead_are_kept_and_computed_when_an_exit_is_asked() -> None:
    async def scenario() -> None:
        nodes = Nodes(sends_ahead=True)
        await nodes.answer(IDS, 0, SURE)
        while len(nodes.nodes[2].session.history) < len(IDS):
            await asyncio.sleep(0)
        assert set(nodes.at_work) == {1}, "the second node has the rows, and has not looked at them"
        sent = nodes.exchanges
        await nodes.answer([*IDS, 9], len(IDS), Question(exit=2, want=1))
        assert nodes.exchanges == sent + 1
        assert sum(rows for segment, rows in nodes.forwards if segment == 2) == len(IDS) + 1

    asyncio.run(scenario())


def test_rows_sent_ahead_that_were_refused_are_sent_again_when_an_exit_is_asked() -> None:
    async def scenario() -> None:
        nodes = Nodes(sends_ahead=True)
        second, refused = nodes.nodes[2], list[Envelope]()

        async def refuse(envelope: Envelope) -> Answer:
            refused.append(envelope)
            raise BusyError("full; try again later")

        with patch.object(second, "receive", refuse):
            await nodes.answer(IDS, 0, SURE)
            await eventually(lambda: len(refused) == -(-len(IDS) // FORWARD))
        await nodes.answer([*IDS, 9], len(IDS), Question(exit=2, want=1))
        assert len(second.session.history) == len(IDS) + 1

    asyncio.run(scenario())


@pytest.mark.parametrize("send", ["rows", "ahead"])
@pytest.mark.parametrize("policy", [FixedExit(3), ConfidenceExit(0.02)], ids=str)
def test_a_long_prompt_through_real_nodes_is_exact(
    policy: FixedExit | ConfidenceExit, send: str, tiny_bundle: Path
) -> None:
    prompt = [3 + i % 200 for i in range(150)]
    options = {"policy": policy, "max_tokens": 6, "logits": True, "ignore_stop": True}

    async def scenario() -> None:
        async with chain(tiny_bundle, send=send) as nodes, single(tiny_bundle) as one:
            assert same(await text(nodes.device, prompt, **options), await text(one, prompt, **options))
            async with AsyncRelayClient(address(nodes.device)) as client:
                device, edge, cloud = await client.describe()
            if policy == FixedExit(3):
                assert device.rows_sent == edge.rows_sent == len(prompt) + 5
                assert device.messages_sent > len(prompt) // FORWARD
                assert cloud.work["segment-3"].rows == len(prompt) + 5

    asyncio.run(scenario())
