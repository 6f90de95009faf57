"""Running a configuration: nodes of their own, links by the project's shaper, and texts through them."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from benchmarks import report
from benchmarks.net.proxy import LinkProxy
from benchmarks.net.texts import QUESTIONS, Timed, timed
from benchmarks.plan.configurations import TIERS, Configuration
from deploy.local import node
from relay import policy as relay_policy
from relay.client.aio import AsyncRelayClient
from relay.client.types import GenerateOptions
from relay.node.text import TextCodec
from scaling.plan.deployment import ConfidenceExit, FixedExit, Policy, SpeculativeExit
from scaling.plan.sessions import lengths

THREADS = "1"
TEXTS, MANY_TEXTS = 3, 8
"""Of each session, after a first that does not count; more where the text itself says which exits decide."""


@dataclass(frozen=True)
class _Turn:
    role: str
    content: str


def prompts(bundle: Path, tokens: int, count: int) -> list[list[int]]:
    """Ids of the questions of Spec-Bench that are nearest to so many tokens, as a conversation's first turn."""
    from family.manifest import load_manifest

    codec = TextCodec(bundle, load_manifest(bundle))
    lines = report.data(QUESTIONS).read_text(encoding="utf-8").splitlines()
    found = [codec.encode_chat([_Turn("user", json.loads(line)["turns"][0])]) for line in lines]
    return [list(ids) for ids in sorted(found, key=lambda ids: abs(len(ids) - tokens))[:count]]


def texts_of(configuration: Configuration) -> int:
    """How many texts it takes, the first of each session included."""
    each = TEXTS if isinstance(configuration.policy, FixedExit) else MANY_TEXTS
    return (1 + each) * configuration.sessions


def relayed(policy: Policy) -> relay_policy.Policy:
    """The policy as a request says it."""
    match policy:
        case FixedExit(exit=exit_, burst=burst):
            return relay_policy.FixedExit(exit_, burst)
        case ConfidenceExit(epsilon=epsilon):
            return relay_policy.ConfidenceExit(epsilon=epsilon)
        case SpeculativeExit(exit=exit_, draft_exit=draft, length=length):
            return relay_policy.SpeculativeExit(exit_, draft, length)


async def run(configuration: Configuration) -> dict[str, Any]:
    """What was measured of it."""
    bundle = report.bundle(configuration.precision)
    texts = prompts(bundle, configuration.prompt, texts_of(configuration))
    async with AsyncExitStack() as stack:
        upstream: str | None = None
        proxies: list[LinkProxy] = []
        for i in reversed(range(len(configuration.cut))):
            if upstream is not None:
                proxy = LinkProxy(configuration.ways[i].shaped(), upstream)
                proxies.insert(0, proxy)
                upstream = await stack.enter_async_context(proxy)
            options = ["--segments", configuration.cut[i], "--threads", THREADS]
            options += ["--send", configuration.send] if i == 0 and upstream else []
            upstream = await stack.enter_async_context(node(bundle, TIERS[i], upstream, *options))
        assert upstream is not None
        if configuration.client is not None:
            upstream = await stack.enter_async_context(LinkProxy(configuration.client.shaped(), upstream))
        client = await stack.enter_async_context(AsyncRelayClient(upstream))
        writer = _Writer(client, configuration)
        await writer.write(texts[0], 2)
        before = [proxy.bytes for proxy in proxies]
        found = await (writer.alone(texts[1:]) if configuration.sessions == 1 else writer.together(texts))
        await asyncio.sleep(max(0.2, 2 * sum(way.rtt_ms for way in configuration.ways) / 1e3))  # goodbyes
        spent = [proxy.bytes - b for proxy, b in zip(proxies, before, strict=True)]
        nodes = await client.describe()
    steps = [step for text in found for step in text.steps_ms]
    return {
        "name": configuration.name,
        "prompt_tokens": mean(len(ids) for ids in texts),
        "ttft_ms": median(text.ttft_ms for text in found),
        "tpot_ms": sum(text.decode_ms for text in found) / sum(len(text.ids) - 1 for text in found),
        "tpot_p95_ms": quantiles(steps, n=20)[-1],
        "bytes": [size / len(writer.written) for size in spent],
        "written": mean(writer.written),
        "memory_bytes": {n.tier: n.rss_bytes for n in nodes},
        "exits": {str(g): mean(token.exit == g for text in found for token in text.tokens) for g in (1, 2, 3)},
        "paces": [asdict(pace) for pace in nodes[0].paces],
    }


class _Writer:
    """Writes texts of a configuration's kind."""

    def __init__(self, client: AsyncRelayClient, configuration: Configuration) -> None:
        self._client = client
        self._configuration = configuration
        self.written: list[int] = []
        """Tokens of each text but the warm-up's."""

    async def write(self, ids: list[int], tokens: int) -> Timed:
        """One text."""
        asked = self._configuration
        options = GenerateOptions(policy=relayed(asked.policy), max_tokens=tokens, ignore_stop=True, codec=asked.codec)
        return await timed(self._client, ids, options)

    async def alone(self, texts: Sequence[list[int]]) -> list[Timed]:
        """One after the other."""
        found = []
        for ids in texts:
            found.append(await self.write(ids, self._configuration.tokens))
            self.written.append(self._configuration.tokens)
        return found

    async def together(self, texts: Sequence[list[int]]) -> list[Timed]:
        """So many at a time, each session one after the other, and none in step: lengths differ, the first ones', which
        do not count, from almost nothing to a whole one. Who is done writes on until all are.
        """
        sessions, done = self._configuration.sessions, 0
        each = len(texts) // sessions

        async def one(session: int) -> list[Timed]:
            nonlocal done
            found: list[Timed] = []
            for number, tokens in enumerate(lengths(self._configuration.tokens, sessions, session)):
                text = await self.write(texts[(session + number * sessions) % len(texts)], tokens)
                self.written.append(tokens)
                found.append(text)
                done += number + 1 == each
                if done == sessions:
                    break
            return found[1:each]

        return [text for found in await asyncio.gather(*(one(i) for i in range(sessions))) for text in found]
