"""Identity of speculation on the real family: random lengths, companions and timing never change a token."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.net.texts import questions
from relay.pace import Pace
from relay.policy import FixedExit, SpeculativeExit
from tests.relay.servers import chain, single, text

AT_ONCE = 4
PROMPTS = ("The tide comes in", "def fibonacci(n):", "1, 2, 4, 8, 16,")


@pytest.fixture(params=["f32", "int4"])
def bundle(request: pytest.FixtureRequest) -> Path:
    made: Path = request.getfixturevalue(f"smollm_{request.param}")
    return made


@pytest.fixture(autouse=True)
def at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of any length, and any number of drafts made ahead: what pays depends on the machine's load."""
    chance = random.Random(11)
    monkeypatch.setattr(Pace, "pays", lambda _, drafts: len(drafts) < 12 and chance.random() < 0.8)
    monkeypatch.setattr(Pace, "goes_ahead", lambda _, *__: chance.random() < 0.8)


async def compared(bundle: Path, prompts: list[Any], tokens: int, temperature: float) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    async with chain(bundle, max_sessions=AT_ONCE) as nodes, single(bundle) as one:

        async def compare(number: int) -> None:
            async with gate:
                options = {"max_tokens": tokens, "temperature": temperature, "seed": number, "ignore_stop": True}
                policy = SpeculativeExit(shorten=number % 2 == 0)
                told = await text(nodes.device, prompts[number], policy=policy, **options)
                plain = await text(one, prompts[number], policy=FixedExit(3), **options)
                assert [t.id for t in told] == [t.id for t in plain], json.dumps(prompts[number])

        await asyncio.gather(*(compare(number) for number in range(len(prompts))))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_few_texts(smollm_int4: Path, temperature: float) -> None:
    asyncio.run(compared(smollm_int4, list(PROMPTS), 16, temperature))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_200_prompts_of_64_tokens(bundle: Path, temperature: float) -> None:
    try:
        prompts = questions(200)
    except report.MissingInputError as error:
        pytest.skip(str(error))
    asyncio.run(compared(bundle, list(prompts), 64, temperature))
