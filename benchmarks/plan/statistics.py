"""How often exits decide, and how often their drafts are right: of a bundle's texts, whatever the machine.

    python -m benchmarks.plan.statistics

writes experiments/plan/statistics.json, from texts of a node on questions of Spec-Bench. The prompts that the
configurations use are left out.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.net.texts import Timed, timed
from benchmarks.plan.configurations import CONFIGURATIONS
from benchmarks.plan.runs import prompts, texts_of
from deploy.local import node
from family.files import write_atomic
from family.manifest import load_manifest
from family.strict import dumps
from relay.client.aio import AsyncRelayClient
from relay.client.types import GenerateOptions
from relay.policy import ConfidenceExit, Policy, SpeculativeExit
from scaling.plan.statistics import Acceptance, MeasuredStatistics, Shares

OUT = report.ROOT / "experiments" / "plan" / "statistics.json"
PRECISION = "int4"
TEXTS = 40
TOKENS = 48


def others(bundle: Path, count: int) -> list[list[int]]:
    """Prompts that no configuration uses, spread over all lengths up to 512."""
    used = {tuple(ids) for c in CONFIGURATIONS for ids in prompts(bundle, c.prompt, texts_of(c))}
    found = [ids for ids in prompts(bundle, 0, 480) if tuple(ids) not in used and len(ids) <= 512]
    return [found[int((i + 0.5) * len(found) / count)] for i in range(count)]


async def measure() -> MeasuredStatistics:
    """All pairs of exits, and all rules of the certificate's main statistic."""
    bundle = report.bundle(PRECISION)
    manifest, asked = load_manifest(bundle), others(report.bundle(PRECISION), TEXTS)
    depth = manifest.spec.granularity
    acceptance: list[Acceptance] = []
    shares: list[Shares] = []
    async with node(bundle, "all", None, "--segments", f"1-{depth}") as address, AsyncRelayClient(address) as client:
        for target in range(2, depth + 1):
            for draft in range(1, target):
                await _texts(client, asked, SpeculativeExit(target, draft, 4))
                (described,) = await client.describe()
                pace = next(p for p in described.paces if (p.draft_exit, p.target_exit) == (draft, target))
                acceptance.append(Acceptance(draft, target, pace.checked, pace.accepted))
        for rule in manifest.certificate.rules if manifest.certificate else ():
            if rule.statistic == "max_probability":
                texts = await _texts(client, asked, ConfidenceExit(epsilon=rule.epsilon))
                every = Counter(token.exit for text in texts for token in text.tokens)
                first = Counter(text.tokens[0].exit for text in texts)
                exits = range(1, depth + 1)
                shares.append(
                    Shares(
                        rule.epsilon,
                        tuple(every[g] / every.total() for g in exits),
                        tuple(first[g] / first.total() for g in exits),
                    )
                )
    return MeasuredStatistics(manifest.family_fingerprint, manifest.precision, tuple(shares), tuple(acceptance))


async def _texts(client: AsyncRelayClient, asked: Sequence[list[int]], policy: Policy) -> list[Timed]:
    options = GenerateOptions(policy=policy, max_tokens=TOKENS, ignore_stop=True)
    return [await timed(client, ids, options) for ids in asked]


if __name__ == "__main__":
    write_atomic(OUT, dumps(asyncio.run(measure())))
    sys.stdout.write(f"{OUT}\n")
