"""Nodes of one session each in one process, and the accidents that may happen between them."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from relay import chain
from relay.codec import carried
from relay.decide import is_sure
from relay.errors import UnreachableError
from relay.fence import Stale, next_epoch
from relay.hop import ROWS_PER_MESSAGE_BYTES, Envelope, Hop
from relay.messages import Advance, Answer, Behind, Question
from relay.names import Codec
from relay.node.sessions import Held
from relay.policy import Rule
from relay.sampling import F32, GREEDY, Sampling, sample
from relay.session import Session
from relay.tls import NOBODY
from relay.views import Engine

GENESIS = chain.genesis("test")
SEGMENTS = 3
FAULTS = ("none", "lost message", "lost reply", "repeated", "late copy", "restart", "rival")


class World:
    """Nodes of one session each, numbered from 1, and the accidents between them, drawn from a seed."""

    def __init__(
        self,
        engines: Mapping[int, Engine],
        seed: int,
        fault_rate: float,
        rows_per_message: int = 3,
        *,
        sends_ids: bool = False,
        sends_ahead: bool = False,
    ) -> None:
        """With `sends_ids` every node sends token ids, so every one begins with segment 1."""
        self.engines = engines
        self.sends_ids = sends_ids
        self.sends_ahead = sends_ahead
        self.rows_per_message = rows_per_message
        self.random = random.Random(seed)
        self.fault_rate = fault_rate
        self.exchanges = 0
        self.late: list[tuple[int, Envelope]] = []
        self.arrivals: list[asyncio.Future[None]] = []
        self.nodes: dict[int, Held] = {}
        for index in range(len(engines), 0, -1):
            self.restart(index)

    def restart(self, index: int) -> None:
        upstream = None
        if index < len(self.engines):

            def connect() -> "FaultyTransport":
                return FaultyTransport(self, index + 1)

            upstream = Hop(connect, row_bytes=ROWS_PER_MESSAGE_BYTES // self.rows_per_message)
        session = Session(
            self.engines[index],
            GENESIS,
            f"tier{index}",
            upstream,
            sends_ids=self.sends_ids and upstream is not None,
            sends_ahead=self.sends_ahead,
        )
        self.nodes[index] = Held(session, NOBODY)

    def tier_of(self, exit_: int) -> str:
        """The first node on the way that serves the exit."""
        return next(f"tier{index}" for index, engine in self.engines.items() if exit_ in engine.segments)

    def deliver_late(self) -> None:
        """A message that was delayed on the way arrives now, beside whatever is going on; its reply reaches nobody."""
        if self.late and self.random.random() < 0.5:
            index, envelope = self.late.pop(self.random.randrange(len(self.late)))
            self.arrivals.append(asyncio.ensure_future(self._arrive(index, envelope)))

    async def _arrive(self, index: int, envelope: Envelope) -> None:
        with suppress(UnreachableError):  # the node's own way upstream may fail as any other
            await self.nodes[index].receive(envelope)


class FaultyTransport:
    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        self.turn = asyncio.Lock()
        self.broken = False

    async def exchange(self, envelope: Envelope) -> Answer | Behind | Stale:
        async with self.turn:
            if self.broken:
                raise ConnectionError("broken before")
            try:
                return await self.deliver(envelope)
            except ConnectionError:
                self.broken = True
                raise

    async def deliver(self, envelope: Envelope) -> Answer | Behind | Stale:
        world = self.world
        world.exchanges += 1
        assert envelope.message.question.adjust is None, "what only the entry node knows stays there"
        world.deliver_late()
        await asyncio.sleep(0)
        message = envelope.message
        if not world.sends_ids:
            envelope = replace(envelope, message=replace(message, rows=carried(message.rows, message.codec)))
        faulty = world.random.random() < world.fault_rate
        match world.random.choice(FAULTS[1:]) if faulty else "none":
            case "lost message":
                raise ConnectionError("lost")
            case "lost reply":
                await world.nodes[self.index].receive(envelope)
                raise ConnectionError("lost")
            case "repeated":
                held = world.nodes[self.index]
                first = await held.receive(envelope)
                again = await world.nodes[self.index].receive(envelope)
                taken_over = isinstance(again, Stale)  # meanwhile, by a node that restarted
                restarted = world.nodes[self.index] is not held  # meanwhile, as an older stream's message arrived
                assert taken_over or restarted or again == first, "a message that was answered gets the stored reply"
                return again
            case "late copy":
                world.late.append((self.index, envelope))
                raise ConnectionError("late")
            case "rival":
                await self.rival()
            case "restart":
                world.restart(self.index)
                raise ConnectionError("restarted")
        return await world.nodes[self.index].receive(envelope)

    async def rival(self) -> None:
        """Another sender takes the session over with a history of its own (or comes too late to), and is gone again."""
        world, held = self.world, self.world.nodes[self.index]
        base = world.random.randint(0, len(held.session.history))
        count = world.random.randint(1, 4)
        anchor = held.session.history.value(base - 1)
        codec = held.session.history.codec
        width, chance = world.engines[self.index].d_model, np.random.default_rng(count)
        rows = chance.integers(0, 9, count) if world.sends_ids else chance.standard_normal((count, width), np.float32)
        values = tuple(chain.extend(anchor, [world.random.randrange(10**6) for _ in range(count)], codec))
        consume = Question(exit=self.index, want=0)
        message = Advance(base, anchor, values, rows, consume, codec)
        await held.receive(Envelope(next_epoch(held.fence.epoch), 1, message))

    def drop(self) -> None:
        self.broken = True

    async def close(self) -> None:
        pass


SAMPLINGS = (GREEDY, Sampling(1.0, seed=3), Sampling(0.7, top_k=9, top_p=0.9, seed=4, index=1))
RULES: tuple[Rule | None, ...] = (
    None,
    Rule("max_probability", (0.3,)),
    Rule("margin", (0.2, 0.1)),
    Rule("entropy", (3.0,)),
)


async def ask(world: World, ids: list[int], base: int, question: Question, codec: Codec = Codec.F32) -> Answer | Behind:
    history = chain.extend(GENESIS, ids, codec)
    anchor = history[base - 1] if base else GENESIS
    message = Advance(base, anchor, tuple(history[base:]), np.array(ids[base:], np.int64), question, codec)
    return await world.nodes[1].session.advance(message)


def decided(logits_at: Callable[[list[int], int], F32], ids: list[int], question: Question) -> tuple[int, list[int]]:
    """The reference: the exit that decides after `ids` and the tokens, from logits (vocab,) of any prefix and exit."""
    first = question.exit if question.rule is None else 1
    for exit_ in range(first, question.exit + 1):
        tokens: list[int] = []
        sure = True
        for draft in (*question.drafts, None):
            prefix = [*ids, *tokens]
            logits = logits_at(prefix, exit_)
            probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            sure = sure and (question.rule is None or is_sure(question.rule, exit_, probabilities))
            tokens.append(sample(logits, question.sampling, len(prefix)))
            if tokens[-1] != draft:
                break
        if sure:
            return exit_, tokens
    return question.exit, tokens


def shortened(logits_at: Callable[[list[int], int], F32], ids: list[int], question: Question) -> Question:
    """The question as the exits between the draft's and the target's leave it."""
    for exit_ in range(1, question.exit):
        for i, draft in enumerate(question.drafts):
            prefix = [*ids, *question.drafts[:i]]
            if question.shortens(exit_) and sample(logits_at(prefix, exit_), question.sampling, len(prefix)) != draft:
                question = replace(question, want=i + 1, drafts=question.drafts[:i])
                break
    return question


def shared_base(world: World, ids: list[int], want: int, codec: Codec = Codec.F32) -> int:
    """The first position that the entry node must be sent for `ids`: what it has and agrees on stays. The rows that are
    asked about may be among it.
    """
    history = world.nodes[1].session.history
    agreed = chain.extend(GENESIS, ids, codec)
    base = min(len(history), len(ids) - world.random.randint(0, want))
    while base and history.value(base - 1) != agreed[base - 1]:
        base -= 1
    return base


async def cut_short(world: World, asking: Coroutine[Any, Any, object]) -> None:
    """Begin, and cancel at any point: as when a deadline passes, every node on the way stops where it is."""
    task = asyncio.ensure_future(asking)
    for _ in range(world.random.randint(0, 12)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
