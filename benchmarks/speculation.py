"""Speculation over links of 5, 30 and 100 ms: against one round trip per token, and against the best that could be.

Two real nodes, a device with segments 1 and 2 and a cloud with the last, a thread each, and the project's link between
them. The two ways take turns, text by text: every token asked of the last exit, and drafts by exit 2 in adaptive
lengths. `speedup` is the ratio of tokens per second after the first token; `vs_optimum` is what speculation reached
over what the best lengths would (`relay.pace.best`), by the acceptance and the times that the device measured in the
same run. `identical` is the share of texts that are the same, token for token. Greedy, and at temperature 0.8; `slow`
is a link of 30 ms and 0.5 Mbit/s, where a row takes longer than a draft, with half of the texts.
"""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import report
from benchmarks.net.links import Link, link
from benchmarks.net.proxy import LinkProxy
from benchmarks.net.schedule import steady
from benchmarks.net.texts import Timed, questions, timed, tokens_per_s
from deploy.local import node
from family.cli import positive
from relay.client.aio import AsyncRelayClient
from relay.client.types import GenerateOptions, Prompt
from relay.pace import Costs, best
from relay.policy import FixedExit, Policy, SpeculativeExit
from training.repeats import ends_in_loop

ROUND_TRIPS_MS = (5, 30, 100)
TEMPERATURES = (0.0, 0.8)
TEXTS = 8
TOKENS = 64
SLOW = Link("slow", steady(0.5e6), steady(0.5e6), 30)
SLOW_CODECS: tuple[Literal["f32", "int8"], ...] = ("f32", "int8")
WAYS: dict[str, Policy] = {"per_token": FixedExit(3), "speculative": SpeculativeExit()}


async def compare(
    bundle: Path,
    way: Link,
    temperature: float,
    prompts: Sequence[Prompt],
    tokens: int,
    codec: Literal["f32", "int8"] = "f32",
) -> dict[str, Any]:
    """One link, one temperature. The first prompt is a warm-up."""
    async with (
        node(bundle, "cloud", None, "--segments", "3", "--threads", "1") as cloud,
        LinkProxy(way, cloud) as away,
        node(bundle, "device", away, "--segments", "1-2", "--threads", "1") as device,
        AsyncRelayClient(device) as client,
    ):
        found: dict[str, list[Timed]] = {name: [] for name in WAYS}
        for number, prompt in enumerate(prompts):
            for name, policy in WAYS.items():
                options = GenerateOptions(
                    policy=policy,
                    max_tokens=tokens,
                    ignore_stop=True,
                    temperature=temperature,
                    seed=number,
                    codec=codec,
                )
                found[name].append(await timed(client, prompt, options))
        described, _ = await client.describe()
    (pace,) = described.paces
    per_token, speculative = (list(texts)[1:] for texts in found.values())
    costs = Costs(pace.draft_ms, pace.verify_ms, pace.row_ms)
    right = pace.accepted / pace.checked
    plan = best(costs, right)
    reached = tokens_per_s(speculative)
    same = [a.ids == b.ids for a, b in zip(per_token, speculative, strict=True)]
    return {
        "tokens_per_s": {"per_token": round(tokens_per_s(per_token), 2), "speculative": round(reached, 2)},
        "speedup": round(reached / tokens_per_s(per_token), 3),
        "vs_optimum": round(reached / (plan.rate * 1e3), 3),
        "optimum": {"tokens_per_s": round(plan.rate * 1e3, 2), "fresh": plan.fresh, "ready": plan.ready},
        "acceptance": round(right, 3),
        "draft_ms": round(pace.draft_ms, 2),
        "verify_ms": round(pace.verify_ms, 2),
        "row_ms": round(pace.row_ms, 2),
        "identical": sum(same) / len(same),
        "loops": sum(ends_in_loop(text.ids) for text in per_token) / len(per_token),
    }


def measure(precision: str = "int4", texts: int = TEXTS, tokens: int = TOKENS) -> dict[str, Any]:
    """All links and temperatures."""
    bundle, prompts = report.bundle(precision), questions(texts + 1)
    figures = {
        f"{rtt}ms": {
            f"T{t:g}": asyncio.run(compare(bundle, link(f"{rtt}ms"), t, prompts, tokens)) for t in TEMPERATURES
        }
        for rtt in ROUND_TRIPS_MS
    }
    few = prompts[: 1 + texts // 2]
    slow = {codec: asyncio.run(compare(bundle, SLOW, 0.0, few, tokens, codec)) for codec in SLOW_CODECS}
    return {"precision": precision, "texts": texts, "tokens": tokens, **figures, "slow": slow}


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| link | T | per token | speculative | speedup | of the optimum | acceptance | identical | loops |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [(f"{rtt} ms", f"{t:g}", result[f"{rtt}ms"][f"T{t:g}"]) for rtt in ROUND_TRIPS_MS for t in TEMPERATURES]
    rows += [(f"slow, {codec}", "0", row) for codec, row in result["slow"].items()]
    for way, t, row in rows:
        rates = row["tokens_per_s"]
        lines.append(
            f"| {way} | {t} | {rates['per_token']} tok/s | {rates['speculative']} tok/s | {row['speedup']} | "
            f"{row['vs_optimum']} | {row['acceptance']:.0%} | {row['identical']:.0%} | {row['loops']:.0%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = report.parser("speculation", __doc__)
    parser.add_argument("--precision", choices=("f32", "int8", "int4"), default="int4")
    parser.add_argument("--texts", type=positive, default=TEXTS, help="of each kind (default %(default)s)")
    parser.add_argument("--tokens", type=positive, default=TOKENS, help="of a text (default %(default)s)")
    arguments: argparse.Namespace = parser.parse_args()
    report.publish(
        "speculation",
        arguments,
        lambda: measure(arguments.precision, arguments.texts, arguments.tokens),
        table,
    )
