"""A link between two network namespaces of this machine: real packets, and the kernel's own TCP on both ends.

A TUN device stands in each namespace, and this process carries packets from one to the other as the link's schedule
says. Packets are really lost, and a full queue drops those that come. Linux only, as root.
"""

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from benchmarks.net.links import PACKET_BYTES, Link, queue_bytes
from benchmarks.net.precise import Departures, PreciseLoop
from benchmarks.net.schedule import Capacity, Schedule
from family.errors import FamilialError

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
"""linux/if_tun.h."""
_DEVICE = "link0"


class NamespacesError(FamilialError):
    """This machine does not let us make network namespaces; the text says what is missing."""


@dataclass(frozen=True)
class Namespace:
    """One end of the link."""

    name: str
    address: str
    """IPv4, of the end's only interface beside its loopback."""

    def command(self, *words: str) -> tuple[str, ...]:
        """The command line that runs a command there."""
        return ("ip", "netns", "exec", self.name, *words)


class NamespaceLink:
    """`async with NamespaceLink(link("4g")) as (near, far):` runs clients and nodes with `near.command` and
    `far.command`. Up is from near to far. Raises `NamespacesError` where that cannot be.
    """

    def __init__(self, link: Link, seed: int = 0) -> None:
        self._ways = tuple(zip(link.schedules(seed), (link.up, link.down), strict=True))
        self.began_s = 0.0
        """The monotonic clock's time at which the link began."""
        name = f"link-{os.getpid()}-{id(self):x}"
        self._ends = (Namespace(f"{name}-near", "10.79.0.1"), Namespace(f"{name}-far", "10.79.0.2"))
        self._devices: list[int] = []
        self._carrying: list[asyncio.Task[None]] = []
        self._precise: PreciseLoop | None = None

    async def __aenter__(self) -> tuple[Namespace, Namespace]:
        """Make both ends. The link's time begins."""
        try:
            for number, end in enumerate(self._ends):
                self._devices.append(_make(end, self._ends[1 - number].address, f"{_DEVICE}-{os.getpid()}{number}"))
            self._precise = PreciseLoop()
            await self._precise.run(self._begin())
        except BaseException:
            self._remove()
            raise
        return self._ends

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove both ends. Processes that still run there keep a network that leads nowhere."""
        assert self._precise is not None
        await self._precise.run(self._end())
        await self._precise.close()
        self._remove()

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.began_s = loop.time()
        for (schedule, capacity), source, sink in zip(self._ways, self._devices, reversed(self._devices), strict=True):
            under_way: Departures[bytes] = Departures()
            self._carrying.append(loop.create_task(under_way.carry(partial(_write, sink))))
            loop.add_reader(source, _read, source, schedule, capacity, self.began_s, under_way)

    async def _end(self) -> None:
        for device in self._devices:
            asyncio.get_running_loop().remove_reader(device)

    def _remove(self) -> None:
        for device in self._devices:
            os.close(device)
        self._devices.clear()
        for end in self._ends:
            subprocess.run(["ip", "netns", "delete", end.name], check=False, capture_output=True)


def _make(end: Namespace, peer: str, device: str) -> int:
    """A namespace with its TUN device; what is written to the other end of that. Raises `NamespacesError`."""
    try:
        _ip("netns", "add", end.name)
        made = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(made, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
            _ip("link", "set", device, "netns", end.name, "name", _DEVICE)
            _ip("-n", end.name, "link", "set", _DEVICE, "addrgenmode", "none", "mtu", str(PACKET_BYTES))
            _ip("-n", end.name, "address", "add", end.address, "peer", peer, "dev", _DEVICE)
            for up in ("lo", _DEVICE):
                _ip("-n", end.name, "link", "set", up, "up")
        except BaseException:
            os.close(made)
            raise
    except OSError as error:
        raise NamespacesError(f"no network namespaces here: {error}; they need Linux, root and {_TUN}") from None
    return made


def _ip(*words: str) -> None:
    _run(("ip", *words))


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def _read(source: int, schedule: Schedule, capacity: Capacity, began_s: float, under_way: Departures[bytes]) -> None:
    """Begin the way of the packets that are there, but for those that the queue has no room for."""
    with suppress(BlockingIOError):
        while packet := os.read(source, 2 * PACKET_BYTES):
            now_s = asyncio.get_running_loop().time() - began_s
            if schedule.frees(queue_bytes(capacity)) <= now_s:
                arrives_s, lost = schedule.send(now_s, len(packet))
                if not lost:
                    under_way.add(began_s + arrives_s, packet)


async def _write(sink: int, packet: bytes) -> bool:
    with suppress(BlockingIOError):  # the other end's own queue is full: a drop as any
        os.write(sink, packet)
    return True
