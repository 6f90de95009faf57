"""Whether the shaped links are what they say: round trips and rates measured through each, beside the schedule's own.

Every link of `benchmarks.net.links` and four recorded ones, as a TCP proxy, and in network namespaces where this
machine lets us make them: pings, then bytes up, then bytes down, with real TCP. `wanted` is what the pure schedule says
of the same pings and bytes at the same times, computed without a clock, and `late_ms_p50` how much later than that a
ping was back. In namespaces the rates are those that the kernel's congestion control reaches on a link that loses
packets; the proxy stands for a connection whose window is open.
"""

import argparse
import asyncio
import json
import sys
from statistics import median, quantiles
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
SEED = 0


def pings_of(link: Link) -> int:
    """Pings of a link."""
    return int(min(MOST_PINGS, max(FEWEST_PINGS, SECONDS * 1e3 / link.rtt_ms)))


def bytes_of(link: Link) -> tuple[int, int]:
    """Bytes sent up and down a link."""
    up, down = (int(SECONDS * capacity.mean_bps / 8) for capacity in (link.up, link.down))
    return up, down


def wanted(link: Link, began_s: float, measured: Measured) -> Measured:
    """What the schedule of a link that began then says of the pings and bytes that were measured."""
    rtt_s, up_bytes, down_bytes = link.rtt_ms / 1e3, *bytes_of(link)
    schedules = link.schedules(SEED)
    up, down = (Connection(schedule, rtt_s) for schedule in schedules)
    pings = []
    for sent_s, _ in measured.pings:
        *_, (_, there_s) = up.write(sent_s - began_s, PING_BYTES)
        *_, (_, back_s) = down.write(there_s, PING_BYTES)
        pings.append((sent_s, (back_s + began_s - sent_s) * 1e3))
    up_bps, down_bps = (
        _rate(Connection(schedule, rtt_s).write(opened_s + rtt_s - began_s, size), size)
        for schedule, opened_s, size in zip(
            schedules, (measured.up_at_s, measured.down_at_s), (up_bytes, down_bytes), strict=True
        )
    )
    return Measured(tuple(pings), measured.up_at_s, up_bps, measured.down_at_s, down_bps)


def _rate(parts: list[tuple[int, float]], size: int) -> float:
    (first, first_s), (_, last_s) = parts[0], parts[-1]
    return 8 * (size - first) / max(1e-9, last_s - first_s)


def figures(link: Link, began_s: float, measured: Measured) -> dict[str, Any]:
    """A link's, measured and wanted, in ms and Mbit/s; and how much later than wanted a ping was back."""
    fit = wanted(link, began_s, measured)
    late = [found - meant for (_, found), (_, meant) in zip(measured.pings, fit.pings, strict=True)]
    return {"measured": _figures(measured), "wanted": _figures(fit), "late_ms_p50": round(median(late), 3)}


def _figures(found: Measured) -> dict[str, float]:
    cut = quantiles([took for _, took in found.pings], n=20, method="inclusive")
    return {
        "rtt_ms_p50": round(cut[9], 3),
        "rtt_ms_p95": round(cut[18], 3),
        "up_mbps": round(found.up_bps / 1e6, 3),
        "down_mbps": round(found.down_bps / 1e6, 3),
    }


async def through_proxy(link: Link) -> dict[str, Any]:
    """The link as a proxy in this process."""
    async with await asyncio.start_server(serve, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        proxy = LinkProxy(link, f"{HOST}:{port}", SEED)
        async with proxy as address:
            return figures(link, proxy.began_s, await measure(address, pings_of(link), *bytes_of(link)))


async def through_namespaces(link: Link) -> dict[str, Any]:
    """The link between two processes in network namespaces. Raises `NamespacesError`."""
    command = (sys.executable, "-m", "benchmarks.net.echo")
    ends = NamespaceLink(link, SEED)
    async with ends as (near, far):
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
    found["pings"] = tuple((at_s, took_ms) for at_s, took_ms in found["pings"])
    return figures(link, ends.began_s, Measured(**found))


def _start(command: tuple[str, ...]) -> Any:
    return asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=report.ROOT)


async def check(link: Link) -> dict[str, Any]:
    """One link's figures."""
    try:
        real = await through_namespaces(link)
    except NamespacesError as error:
        real = {"not_measured": str(error)}
    return {"source": link.source, "proxy": await through_proxy(link), "namespaces": real}


def measure_all(names: list[str]) -> dict[str, Any]:
    """These links, one after the other."""
    return {"seed": SEED, "links": {name: asyncio.run(check(links.link(name))) for name in names}}


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table: measured (wanted)."""
    columns = ("link", "", "round trip, ms: p50", "p95", "up, Mbit/s", "down, Mbit/s", "late, ms")
    rows = [columns, ("---",) * len(columns)]
    for name, found in result["links"].items():
        for how in ("proxy", "namespaces"):
            rows.append((name, how, *_cells(found[how])))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    if "not_measured" in found:
        return (found["not_measured"],)
    pairs = ((value, found["wanted"][key]) for key, value in found["measured"].items())
    return (*(f"{measured:.2f} ({meant:.2f})" for measured, meant in pairs), f"{found['late_ms_p50']:.2f}")


def _arguments() -> argparse.Namespace:
    parser = report.parser("link", __doc__)
    everything = [*links.NAMED, *links.TRACES]
    help_ = f"default: {' '.join(everything)}"
    parser.add_argument("--link", nargs="+", metavar="NAME", default=everything, help=help_)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    report.publish("link", given, lambda: measure_all(given.link), table)
