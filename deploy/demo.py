"""`make demo`: three nodes on this machine write texts together, and a table of what that took."""

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from deploy.local import chain
from family.cli import run
from family.manifest import Manifest, load_manifest
from relay.cli.colours import Palette, shown, wants_colour
from relay.client.aio import AsyncRelayClient
from relay.client.types import Node, Prompt, Token
from relay.policy import ExitSchedule, FixedExit, Policy

MAX_TOKENS = 48
SCRIPT: tuple[tuple[str, Policy], ...] = (
    ("Why is the sky blue?", FixedExit(3)),
    ("Why is the sky blue?", FixedExit(1)),
    ("Why is the sky blue?", ExitSchedule(1)),
    ("Give me three tips for learning to cook.", ExitSchedule(2)),
    ("Write a short story about a lighthouse.", ExitSchedule(3)),
)
"""What is said, and which exit decides each token of the answer."""


@dataclass(frozen=True)
class Written:
    """One text and when its tokens came, seconds since the request."""

    tokens: tuple[Token, ...]
    times_s: tuple[float, ...]


async def write(client: AsyncRelayClient, prompt: Prompt, policy: Policy, palette: Palette) -> Written:
    """Generate and print as tokens come: coloured by tier, or with the tier's name where it changes."""
    started = time.perf_counter()
    tokens: list[Token] = []
    times: list[float] = []
    async for token in client.generate(prompt, policy=policy, max_tokens=MAX_TOKENS):
        if not palette.enabled and (not tokens or tokens[-1].tier != token.tier):
            put(f" [{token.tier}]")
        tokens.append(token)
        times.append(time.perf_counter() - started)
        put(palette.paint(token.tier, shown(token.text, sys.stdout)))
    put("\n")
    return Written(tuple(tokens), tuple(times))


async def demo(bundle: Path) -> None:
    """Start the tiers from the last to the first, write, report, stop."""
    manifest = load_manifest(bundle)
    palette = Palette(wants_colour(sys.stdout))
    async with chain(bundle, manifest) as entry, AsyncRelayClient(entry) as client:
        introduce(manifest, palette)
        texts = []
        for said, policy in SCRIPT:
            put(f"\n{said}  ({describe(policy)})\n")
            texts.append(await write(client, [{"role": "user", "content": said}], policy, palette))
        report(texts, await client.describe())


def introduce(manifest: Manifest, palette: Palette) -> None:
    """Who is who."""
    spec = manifest.spec
    tiers = ", ".join(
        palette.paint(t, f"{t} (layers up to {spec.exit(s[-1]).layer})") for t, s in manifest.tiers.items()
    )
    put(f"{spec.name} at {manifest.precision}, three processes on this machine: {tiers}\n")


def describe(policy: Policy) -> str:
    """A policy in words."""
    return f"every token at exit {policy.exit}" if isinstance(policy, FixedExit) else "the exit drawn for every token"


def report(texts: list[Written], nodes: tuple[Node, ...]) -> None:
    """Tokens per exit, what crossed each link, memory, and times."""
    tokens = [token for text in texts for token in text.tokens]
    by_exit = Counter((token.exit, token.tier) for token in tokens)
    put("\n exit  tier      tokens   link to the next   messages   rows      bytes   memory\n")
    for index, entry in enumerate(nodes):
        link = f"{entry.tier} → {nodes[index + 1].tier}" if index + 1 < len(nodes) else "-"
        put(
            f"{entry.segments[-1]:5}  {entry.tier:8}{by_exit[entry.segments[-1], entry.tier]:8}   {link:16}"
            f"{entry.messages_sent:11}{entry.rows_sent:7}{entry.bytes_sent:11}   {entry.rss_bytes / 2**20:.0f} MiB\n"
        )
    first = median(text.times_s[0] for text in texts)
    gaps = [b - a for text in texts for a, b in zip(text.times_s, text.times_s[1:], strict=False)]
    put(f"\ntime to first token {first * 1e3:.0f} ms, time per token {median(gaps) * 1e3:.1f} ms (medians)\n")


def put(text: str) -> None:
    """Show text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="what export-family wrote")
    arguments = parser.parse_args()
    run(lambda: asyncio.run(demo(arguments.bundle)), name="the demo", extra="dev")


if __name__ == "__main__":
    main()
