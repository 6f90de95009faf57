"""Texts over a link, as a client sees them: when each token came, and what it cost."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import report
from relay.client.aio import AsyncRelayClient
from relay.client.types import GenerateOptions, Prompt, Token

QUESTIONS = "text/spec-bench/question.jsonl"
QUIET_S = 0.05
"""Between two texts: what the one before left under way is over."""


@dataclass(frozen=True)
class Timed:
    """One text."""

    tokens: tuple[Token, ...]
    came_ms: tuple[float, ...]
    """When each token came, since the request."""

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def ttft_ms(self) -> float:
        return self.came_ms[0]

    @property
    def decode_ms(self) -> float:
        """From the first token to the last."""
        return self.came_ms[-1] - self.came_ms[0]

    @property
    def steps_ms(self) -> list[float]:
        """Between tokens; those that came in one message are 0 apart."""
        return [b - a for a, b in zip(self.came_ms, self.came_ms[1:], strict=False)]


def questions(count: int, most_characters: int = 2000) -> list[Prompt]:
    """First turns of Spec-Bench (arXiv 2401.07851), spread evenly over its categories; longer ones are passed over."""
    lines = report.data(QUESTIONS).read_text(encoding="utf-8").splitlines()
    turns = [turn for line in lines if len(turn := json.loads(line)["turns"][0]) <= most_characters]
    step = len(turns) / count
    return [[{"role": "user", "content": turns[int((i + 0.5) * step)]}] for i in range(count)]


async def timed(client: AsyncRelayClient, prompt: Prompt, options: GenerateOptions) -> Timed:
    """Write one text and time it."""
    await asyncio.sleep(QUIET_S)
    started = time.perf_counter()
    tokens, came = [], []
    async for token in client.generate(prompt, **options):
        came.append((time.perf_counter() - started) * 1e3)
        tokens.append(token)
    return Timed(tuple(tokens), tuple(came))


def tokens_per_s(texts: Sequence[Timed]) -> float:
    """After the first token of each."""
    return sum(len(text.ids) - 1 for text in texts) / sum(text.decode_ms for text in texts) * 1e3
