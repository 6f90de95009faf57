"""The links of the configurations, as `relay-node profile --upstream` measures them: what a planner's user would know.

    python -m benchmarks.plan.measured_links

writes experiments/plan/links.json. The loopback's own round trip, which the nodes' costs hold already, is taken off.
"""

import asyncio
import json
import sys
from dataclasses import replace

from benchmarks import report
from benchmarks.net.proxy import LinkProxy
from benchmarks.plan.configurations import CONFIGURATIONS, LINKS, Way
from deploy.local import node
from family.files import write_atomic
from relay.profile.upstream import measure_upstream


async def measure() -> dict[str, dict[str, float]]:
    """By the links' names: round trip in ms, rates in bits per second."""
    bundle = report.bundle("int4")
    ways = {way.name: way for c in CONFIGURATIONS for way in (*c.ways, *filter(None, [c.client]))}
    async with node(bundle, "cloud", None, "--segments", "3", "--threads", "1") as address:
        here = await measure_upstream(bundle, address)
        found = {name: await _through(address, way) for name, way in ways.items()}
    return {
        name: {"rtt_ms": round(each["rtt_ms"] - here.rtt_ms, 3), "up_bps": each["up_bps"], "down_bps": each["down_bps"]}
        for name, each in found.items()
    }


async def _through(address: str, way: Way) -> dict[str, float]:
    """Without jitter, which the planner is told."""
    async with LinkProxy(replace(way, jitter_ms=0.0).shaped(), address) as shaped:
        found = await measure_upstream(report.bundle("int4"), shaped)
    return {"rtt_ms": found.rtt_ms, "up_bps": found.up_bps, "down_bps": found.down_bps}


if __name__ == "__main__":
    write_atomic(LINKS, json.dumps(asyncio.run(measure()), indent=2) + "\n")
    sys.stdout.write(f"{LINKS}\n")
