"""Speculation on real nodes: whatever was drafted, sent or made ahead, every token is the target exit's own."""

import asyncio
from pathlib import Path

import pytest

from relay.node.serve import NodeServer
from relay.policy import FixedExit, Policy, SpeculativeExit
from tests.relay.processes import Gate, eventually
from tests.relay.servers import address, chain, config, running, single, text

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


@pytest.mark.parametrize(
    ("policy", "send"),
    [(SpeculativeExit(), "rows"), (SpeculativeExit(length=5), "ids"), (FixedExit(3, burst=9), "ids")],
    ids=str,
)
def test_an_upstream_that_restarts_while_it_verifies_changes_nothing(
    policy: Policy, send: str, tiny_bundle: Path
) -> None:
    async def scenario() -> None:
        segments = (1, 2, 3) if send == "ids" else (3,)
        cloud = NodeServer(config(tiny_bundle, "cloud", segments=segments))
        await cloud.start()
        gate = Gate(cloud.node.engine, free=4)
        async with (
            running(config(tiny_bundle, "device", cloud, segments=(1, 2), send=send)) as device,
            single(tiny_bundle) as one,
        ):
            relayed = asyncio.ensure_future(text(device, PROMPT, policy=policy, **OPTIONS))
            await eventually(lambda: gate.waiting > 0)
            await cloud.stop()
            async with running(config(tiny_bundle, "cloud", segments=segments, listen=address(cloud))):
                plain = await text(one, PROMPT, policy=FixedExit(3), **OPTIONS)
                assert [t.id for t in await relayed] == [t.id for t in plain]

    asyncio.run(scenario())
