"""Many sessions on one node: what they reach together, and what a long prompt costs those who decode.

One node process serves all segments; times are taken at the client, in a process of its own on the same cores.

`vs_curve` is the tokens per second of 16 sessions over those of the engine alone, in one forward after the other of as
many rows of one sequence, each with its logits: what batching could reach if nothing but the engine took time, and
attention over 16 contexts cost what it costs over one. Serving and engine take turns. `sessions` has the same for
fewer.

While one session decodes, another one's prompt of 2,000 tokens is read. `tpot_p95_ratio` is the 95th percentile of the
former's time per token meanwhile over that without; `prefill_share` is the latter's rate over what it has alone.
`identical` is the share of texts that are, token for token, what they are alone.
"""

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report
from deploy.local import node
from family.manifest import Manifest, load_manifest
from relay.client.aio import AsyncRelayClient
from relay.engine.engine import BundleEngine
from relay.policy import FixedExit

SESSIONS = (1, 2, 4, 8, 16)
TOKENS = 48
ROUNDS = 3
PREFILLS = 5
PROMPT_TOKENS = 2000
SUBJECTS = ("tide", "storm", "letter", "ship", "garden", "winter", "map", "song")
PROMPTS = [f"The {subject} that nobody {verb}" for verb in ("expected", "remembered") for subject in SUBJECTS]


class Curve:
    """The engine alone: a forward of q rows of one sequence through all segments, and their logits at the last exit."""

    def __init__(self, bundle: Path, manifest: Manifest, past: int) -> None:
        depth = manifest.spec.granularity
        self._engine = BundleEngine(bundle, manifest, tuple(range(1, depth + 1)), threads=2, sessions=1)
        self._segments = [self._engine.open_segment(index) for index in self._engine.segments]
        self._exit = self._engine.open_exit(depth)
        self._past = past
        self._ids = np.random.default_rng(0).integers(0, manifest.spec.vocab_size, past + max(SESSIONS))
        self.seconds(past, 0)

    def seconds(self, rows: int, past: int) -> float:
        """One forward."""
        started = time.perf_counter()
        made: Any = self._ids[past : past + rows]
        for segment in self._segments:
            made = segment.run(made, past)
        self._exit.run(made, past, rows)
        return time.perf_counter() - started

    def rates(self) -> dict[int, float]:
        """Rows per second in forwards of so many rows."""
        return {rows: rows / median(self.seconds(rows, self._past) for _ in range(12)) for rows in SESSIONS}


async def together(client: AsyncRelayClient, count: int, depth: int) -> tuple[float, list[list[int]]]:
    """So many texts at a time: tokens per second while all of them are decoding, and their ids."""
    times: list[list[float]] = [[] for _ in range(count)]

    async def one(number: int) -> list[int]:
        ids = []
        stream = client.generate(PROMPTS[number], policy=FixedExit(depth), max_tokens=TOKENS, ignore_stop=True)
        async for token in stream:
            times[number].append(time.perf_counter())
            ids.append(token.id)
        return ids

    texts = await asyncio.gather(*(one(number) for number in range(count)))
    first, last = max(t[0] for t in times), min(t[-1] for t in times)
    return sum(first < moment <= last for t in times for moment in t) / (last - first), list(texts)


async def alone_text(client: AsyncRelayClient, number: int, depth: int) -> list[int]:
    """The ids of one text that is alone."""
    stream = client.generate(PROMPTS[number], policy=FixedExit(depth), max_tokens=TOKENS, ignore_stop=True)
    return [token.id async for token in stream]


async def throughput(client: AsyncRelayClient, bundle: Path, manifest: Manifest) -> dict[str, Any]:
    """Sessions against the engine's curve."""
    depth = manifest.spec.granularity
    curve = Curve(bundle, manifest, past=8 + TOKENS // 2)
    alone = [await alone_text(client, number, depth) for number in range(max(SESSIONS))]
    served: dict[int, list[float]] = {count: [] for count in SESSIONS}
    engine: dict[int, list[float]] = {count: [] for count in SESSIONS}
    same = []
    for _ in range(ROUNDS):
        for count, rate in curve.rates().items():
            engine[count].append(rate)
        for count in SESSIONS:
            rate, texts = await together(client, count, depth)
            served[count].append(rate)
            same += [told == alone[number] for number, told in enumerate(texts)]
    rates = {
        str(count): {
            "tokens_per_s": round(median(served[count]), 1),
            "engine_rows_per_s": round(median(engine[count]), 1),
            "vs_curve": round(median(s / e for s, e in zip(served[count], engine[count], strict=True)), 3),
        }
        for count in SESSIONS
    }
    most = rates[str(max(SESSIONS))]["vs_curve"]
    return {"vs_curve": most, "identical": round(float(np.mean(same)), 3), "sessions": rates}


async def prefill_s(client: AsyncRelayClient, seed: int, manifest: Manifest) -> float:
    """The time to the first token behind a long prompt."""
    ids = np.random.default_rng(seed).integers(0, manifest.spec.vocab_size, PROMPT_TOKENS).tolist()
    started = time.perf_counter()
    async for _ in client.generate(ids, policy=FixedExit(manifest.spec.granularity), max_tokens=1, ignore_stop=True):
        break
    return time.perf_counter() - started


async def interference(client: AsyncRelayClient, manifest: Manifest) -> dict[str, Any]:
    """One session decodes; another prefills, again and again."""
    depth, moments = manifest.spec.granularity, list[float]()
    await prefill_s(client, 0, manifest)  # warm-up

    async def decode() -> None:
        stream = client.generate(PROMPTS[0], policy=FixedExit(depth), max_tokens=1900, ignore_stop=True)
        async for _ in stream:
            moments.append(time.perf_counter())

    solo, shared, alone_ms, beside_ms = list[float](), list[float](), list[float](), list[float]()
    for seed in range(1, PREFILLS + 1):
        solo.append(await prefill_s(client, seed, manifest))
        moments.clear()
        decoding = asyncio.ensure_future(decode())
        while len(moments) < 100:
            await asyncio.sleep(0.01)
        begun = time.perf_counter()
        shared.append(await prefill_s(client, 100 + seed, manifest))
        ended = time.perf_counter()
        decoding.cancel()
        await asyncio.gather(decoding, return_exceptions=True)
        gaps = [(later, (later - earlier) * 1e3) for earlier, later in pairwise(moments[10:])]
        alone_ms += [gap for moment, gap in gaps if moment <= begun]
        beside_ms += [gap for moment, gap in gaps if begun < moment <= ended]
    alone, beside = (np.quantile(times, [0.5, 0.95]) for times in (alone_ms, beside_ms))
    return {
        "tpot_p95_ratio": round(float(beside[1] / alone[1]), 2),
        "tpot_p50_ratio": round(float(beside[0] / alone[0]), 2),
        "prefill_share": round(median(s / d for s, d in zip(solo, shared, strict=True)), 3),
        "tpot_ms": {"alone": alone.round(1).tolist(), "beside": beside.round(1).tolist()},
        "prefill_tokens_per_s": {
            "alone": round(PROMPT_TOKENS / median(solo)),
            "beside": round(PROMPT_TOKENS / median(shared)),
        },
    }


async def compare(bundle: Path) -> dict[str, Any]:
    """The figures of one bundle."""
    manifest = load_manifest(bundle)
    async with (
        node(bundle, "all", None, "--segments", f"1-{manifest.spec.granularity}") as address,
        AsyncRelayClient(address) as client,
    ):
        return {**await throughput(client, bundle, manifest), **await interference(client, manifest)}


def measure() -> dict[str, Any]:
    """The 4-bit bundle in front, f32 beside it."""
    figures = {p: asyncio.run(compare(report.bundle(p))) for p in report.PRECISIONS}
    return {**figures["int4"], "f32": figures["f32"], "tokens": TOKENS, "rounds": ROUNDS, "prompt": PROMPT_TOKENS}


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = []
    for name, figures in (("int4", result), ("f32", result["f32"])):
        lines.append(f"{name}: vs_curve {figures['vs_curve']}, identical {figures['identical']}")
        for count, rates in figures["sessions"].items():
            lines.append(f"  {count:>2} sessions: {rates}")
        for key in ("tpot_p95_ratio", "tpot_p50_ratio", "prefill_share", "tpot_ms", "prefill_tokens_per_s"):
            lines.append(f"  {key}: {figures[key]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("batch", __doc__, measure, table)
