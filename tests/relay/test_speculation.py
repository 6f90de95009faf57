"""Speculation on real nodes: whatever was drafted, sent or made ahead, every token is the target exit's own."""

import asyncio
from pathlib import Path

import pytest

from relay.policy import FixedExit, SpeculativeExit
from tests.relay.servers import chain, single, text

PROMPT = list(range(3, 20))
OPTIONS = {"max_tokens": 40, "logits": True, "ignore_stop": True}
POLICIES = [
    SpeculativeExit(),
    SpeculativeExit(length=1),
    SpeculativeExit(length=7),
    SpeculativeExit(shorten=True, length=4),
    SpeculativeExit(exit=2),
]


@pytest.mark.parametrize("precision", ["f32", "int4"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_token_is_the_targets_own(
    policy: SpeculativeExit, temperature: float, precision: str, tiny_bundle: Path, tiny_bundle_int4: Path
) -> None:
    bundle = tiny_bundle if precision == "f32" else tiny_bundle_int4

    async def scenario() -> None:
        async with chain(bundle) as nodes, single(bundle) as one:
            options = {**OPTIONS, "temperature": temperature, "seed": 5}
            plain = await text(one, PROMPT, policy=FixedExit(policy.exit or 3), **options)
            for node in (nodes.device, one):
                speculated = await text(node, PROMPT, policy=policy, **options)
                assert [(t.id, t.exit, t.position) for t in speculated] == [(t.id, t.exit, t.position) for t in plain]
                assert all((a.logits == b.logits).all() for a, b in zip(speculated, plain, strict=True))

    asyncio.run(scenario())
