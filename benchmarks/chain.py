"""Three processes against one: tokens per second, what a hop adds, what each node holds in memory.

Per precision, a chain of three nodes and a single node that serves all segments run at the same time and take turns,
text by text. Times are taken at the client.

`chain_vs_single` is the chain's tokens per second over the single node's, both at full depth and greedy. A hop is one
`Advance` round trip, measured by the node that sends it, less the engine time and the further hops behind it:
`hop_ms_p50` and `hop_ms_p99` are those of the slower hop. `rss_mb` is a node's resident memory, `all` the single one's.
"""

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from deploy.local import chain, node
from family.manifest import load_manifest
from relay.client.aio import AsyncRelayClient
from relay.policy import FixedExit

PROMPT = "The lighthouse keeper wrote in his diary that the storm"
TOKENS = 64
ROUNDS = 5


async def text(client: AsyncRelayClient, exit_: int) -> tuple[float, float, float]:
    """One text: time to first token, median time per token, median time per token outside engines; all in ms."""
    started = time.perf_counter()
    times, outside = [], []
    stream = client.generate(PROMPT, policy=FixedExit(exit_), max_tokens=TOKENS, ignore_stop=True)
    async for token in stream:
        now = time.perf_counter()
        times.append((now - started) * 1e3)
        started = now
        outside.append(times[-1] - token.engine_ms)
    return times[0], median(times[1:]), median(outside[1:])


async def compare(bundle: Path) -> dict[str, Any]:
    """The figures of one bundle."""
    manifest = load_manifest(bundle)
    depth = manifest.spec.granularity
    async with (
        chain(bundle, manifest) as entry,
        node(bundle, "all", None, "--segments", f"1-{depth}") as alone,
        AsyncRelayClient(entry) as relayed,
        AsyncRelayClient(alone) as single,
    ):
        runs = []
        for _ in range(1 + ROUNDS):
            runs.append((await text(relayed, depth), await text(single, depth), await text(single, 1)))
        del runs[0]  # warm-up
        nodes = await relayed.describe()
        (one,) = await single.describe()
    three, whole, shallow = (tuple(median(run[i][k] for run in runs) for k in range(3)) for i in range(3))
    hops = [node for node in nodes if node.messages_sent]
    return {
        "chain_vs_single": round(whole[1] / three[1], 3),
        "hop_ms_p50": round(max(node.hop_ms_p50 for node in hops), 3),
        "hop_ms_p99": round(max(node.hop_ms_p99 for node in hops), 3),
        "ttft_ms": {"chain": round(three[0], 1), "single": round(whole[0], 1), "exit_1": round(shallow[0], 1)},
        "ms_per_token": {"chain": round(three[1], 2), "single": round(whole[1], 2), "exit_1": round(shallow[1], 2)},
        "outside_engine_ms_p50": {"chain": round(three[2], 2), "single": round(whole[2], 2)},
        "rss_mb": {**{n.tier: round(n.rss_bytes / 1e6) for n in nodes}, "all": round(one.rss_bytes / 1e6)},
        "bytes_per_row": round(nodes[0].bytes_sent / nodes[0].rows_sent),
        "chunk_invariant": all(n.chunk_invariant for n in (*nodes, one)),
    }


def measure() -> dict[str, Any]:
    """All precisions."""
    figures = {p: asyncio.run(compare(report.bundle(p))) for p in report.PRECISIONS}
    return {"tokens": TOKENS, "rounds": ROUNDS, **figures}


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    lines = []
    for precision in report.PRECISIONS:
        lines += [f"{precision}:"] + [f"  {key}: {value}" for key, value in result[precision].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("chain", __doc__, measure, table)
