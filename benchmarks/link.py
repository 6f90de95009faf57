"""Whether the shaped links are what they say: round trips and rates measured through each, beside the schedule's own.

Every link of `benchmarks.net.links` and four recorded ones, as a TCP proxy, and in network namespaces where this
machine lets us make them. `wanted` is what the pure schedule gives the same pings and bytes, computed without a clock;
`proxy` and `namespaces` are measured, with real TCP. In namespaces the rates are those that the kernel's congestion
control reaches on a link that loses packets; the proxy stands for a connection whose window is open.
"""

import argparse
import asyncio
import json
import sys
from statistics import quantiles
from typing import Any

from benchmarks import report
from benchmarks.net import links
from benchmarks.net.echo import PING_BYTES, Measured, measure, serve
from benchmarks.net.links import Link
from benchmarks.net.namespaces import NamespaceLink, NamespacesError
from benchmarks.net.proxy import HOST, LinkProxy
from benchmarks.net.schedule import Connection

SECONDS = 2.0
"""About so long each link is pinged, and filled in each direction."""
FEWEST_PINGS, MOST_PINGS = 20, 400
WANTED_PINGS = 2000
SEED = 0


def pings_of(link: Link) -> int:
    """Pings of a link."""
    return int(min(MOST_PINGS, max(FEWEST_PINGS, SECONDS * 1e3 / link.rtt_ms)))


def bytes_of(link: Link) -> tuple[int, int]:
    """Bytes sent up and down a link."""
    up, down = (int(SECONDS * capacity.mean_bps / 8) for capacity in (link.up, link.down))
    return up, down


def wanted(link: Link) -> dict[str, float]:
    """What the schedule says of the same pings, of which there are many here, and the same bytes."""
    rtt_s = link.rtt_ms / 1e3
    up, down = (Connection(schedule, rtt_s) for schedule in link.schedules(SEED))
    now_s, times_ms = 0.0, []
    for _ in range(WANTED_PINGS):
        started_s = now_s
        for way in (up, down):
            *_, (_, now_s) = way.write(now_s, PING_BYTES)
        times_ms.append((now_s - started_s) * 1e3)
    rates = []
    began_s = pings_of(link) * rtt_s
    for schedule, size in zip(link.schedules(SEED), bytes_of(link), strict=True):
        parts = Connection(schedule, rtt_s).write(began_s, size)
        (first, first_s), (_, last_s) = parts[0], parts[-1]
        rates.append(8 * (size - first) / max(1e-9, last_s - first_s))
        began_s = last_s
    return figures(Measured(tuple(times_ms), *rates))


def figures(found: Measured) -> dict[str, float]:
    """One link's, in ms and Mbit/s."""
    cut = quantiles(found.rtt_ms, n=20, method="inclusive")
    return {
        "rtt_ms_p50": round(cut[9], 3),
        "rtt_ms_p95": round(cut[18], 3),
        "up_mbps": round(found.up_bps / 1e6, 3),
        "down_mbps": round(found.down_bps / 1e6, 3),
    }


async def through_proxy(link: Link) -> Measured:
    """The link as a proxy in this process."""
    async with await asyncio.start_server(serve, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with LinkProxy(link, f"{HOST}:{port}", SEED) as address:
            return await measure(address, pings_of(link), *bytes_of(link))


async def through_namespaces(link: Link) -> Measured:
    """The link between two processes in network namespaces. Raises `NamespacesError`."""
    command = (sys.executable, "-m", "benchmarks.net.echo")
    async with NamespaceLink(link, SEED) as (near, far):
        server = await _start(far.command(*command, "--host", far.address))
        try:
            assert server.stdout is not None
            address = (await server.stdout.readline()).decode().strip()
            up, down = bytes_of(link)
            given = ("--pings", str(pings_of(link)), "--up", str(up), "--down", str(down))
            client = await _start(near.command(*command, address, *given))
            said, _ = await client.communicate()
            found = json.loads(said)
        finally:
            server.kill()
            await server.wait()
    return Measured(tuple(found["rtt_ms"]), found["up_bps"], found["down_bps"])


def _start(command: tuple[str, ...]) -> Any:
    return asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=report.ROOT)


async def check(link: Link) -> dict[str, Any]:
    """One link's figures."""
    try:
        real: dict[str, Any] = figures(await through_namespaces(link))
    except NamespacesError as error:
        real = {"not_measured": str(error)}
    return {
        "source": link.source,
        "wanted": wanted(link),
        "proxy": figures(await through_proxy(link)),
        "namespaces": real,
    }


def measure_all(names: list[str]) -> dict[str, Any]:
    """These links, one after the other."""
    return {"seed": SEED, "links": {name: asyncio.run(check(links.link(name))) for name in names}}


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| link | | round trip, ms: p50 | p95 | up, Mbit/s | down, Mbit/s |", "|---|---|---|---|---|---|"]
    for name, found in result["links"].items():
        for how in ("wanted", "proxy", "namespaces"):
            values = found[how]
            cells = [values["not_measured"]] if "not_measured" in values else [f"{v:.2f}" for v in values.values()]
            lines.append(f"| {name} | {how} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = report.parser("link", __doc__)
    everything = [*links.NAMED, *links.TRACES]
    help_ = f"default: {' '.join(everything)}"
    parser.add_argument("--link", nargs="+", metavar="NAME", default=everything, help=help_)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    report.publish("link", given, lambda: measure_all(given.link), table)
