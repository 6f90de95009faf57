"""The sessions that come to a node from downstream, and how long they live."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.errors import BusyError, ForeignSessionError, UnknownSessionError
from relay.fence import Fence, Stale
from relay.hop import Envelope
from relay.messages import Answer, Behind
from relay.policy import Policy
from relay.sampling import Penalties
from relay.session import Session
from relay.tls import Peer

KEPT_S = 900.0
"""How long a session that a request asked to keep stays after its text."""


@dataclass
class Text:
    """What of a text under way may be changed, or bounds the change."""

    policy: Policy | None
    """None: the caller's default of the moment."""
    penalties: Penalties


@dataclass
class Held:
    """A session, the fence before it, and when it may be freed."""

    session: Session
    owner: Peer
    """Who opened it; nobody else may use, steer or fence it."""
    fence: Fence[Answer | Behind] = field(default_factory=Fence)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a message of any of its streams is being answered."""
    streams: int = 0
    """Streams that serve it now; two for a moment, when a new one takes over from one that hangs."""
    positions: int = 0
    """That its texts may reach, at most: there is room for the keys and values of so many, which stay until the session
    is freed."""
    deadline: float | None = None
    """Loop time at which the newest stream ends; the way upstream ends with it."""
    expiry: asyncio.TimerHandle | None = None
    """Set while no stream serves the session."""
    kept: bool = False
    """Nobody waits for it: it is there to save work, should a request of its name come, and gives way to a new one."""
    text: Text | None = None
    """Under way, if one begins here."""
    request_id: str = ""
    """Of the newest request that it serves."""

    async def receive(self, envelope: Envelope) -> Answer | Behind | Stale:
        """Let a message through the fence, once, and answer it."""
        async with self.lock:
            refused = self.fence.check(envelope.epoch, envelope.seq)
            if refused is not None:
                return refused
            reply = await self.session.advance(envelope.message)
            self.fence.store(envelope.seq, reply)
            return reply


class Sessions:
    """All sessions of a node. A stream that breaks leaves its session for `grace_s`, one that says goodbye frees it.

    A session that no stream serves gives way to a new one when the node is full.
    """

    def __init__(self, open_session: Callable[[str], Session], most: int, positions: int, grace_s: float) -> None:
        """At most so many at a time, whose texts may reach so many positions together."""
        self._open_session = open_session
        self._most, self._positions = most, positions
        self._grace_s = grace_s
        self._held: dict[str, Held] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._quieter = asyncio.Event()
        """Set when a stream ends."""

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def streams(self, name: str) -> int:
        """Streams that serve the session now."""
        held = self._held.get(name)
        return held.streams if held is not None else 0

    def of(self, name: str, owner: Peer) -> Held | None:
        """The session, if there is one. Raises `ForeignSessionError` if another peer opened it."""
        held = self._held.get(name)
        if held is not None and held.owner != owner:
            raise ForeignSessionError(f"session {name} was opened by another peer; choose another id")
        return held

    def request_id(self, name: str) -> str:
        """Id of the newest request that the session serves."""
        held = self._held.get(name)
        return held.request_id if held is not None else ""

    def text(self, name: str, owner: Peer) -> Text:
        """The session's text. Raises `UnknownSessionError` if none is under way, and `ForeignSessionError`."""
        held = self.of(name, owner)
        if held is None or held.text is None:
            raise UnknownSessionError(f"no text of session {name} is under way on this node; it may be complete")
        return held.text

    def positions(self, name: str) -> int:
        """That the session's texts may reach."""
        return self._held[name].positions

    def deadline(self, name: str) -> float | None:
        """Loop time at which the session's newest stream ends, if it has an end."""
        held = self._held.get(name)
        return held.deadline if held is not None else None

    def enter(self, name: str, owner: Peer, positions: int, deadline: float | None, request_id: str) -> Held:
        """A stream begins, with a text that may reach so many positions: its session, opened if it is new.

        Raises `BusyError` when the node is full, `ForeignSessionError` if another peer opened it.
        """
        held = self.of(name, owner)
        positions = max(positions, held.positions if held is not None else 0)
        self._make_room(name, positions)
        if held is None:
            held = self._held[name] = Held(self._open_session(name), owner)
        held.session.pause()  # a stream that this one takes over from has a way upstream of its own deadline and room
        held.positions = positions
        if held.expiry is not None:
            held.expiry.cancel()
            held.expiry = None
        held.streams += 1
        held.deadline, held.request_id, held.kept = deadline, request_id, False
        return held

    def leave(self, name: str, held: Held, *, over: bool) -> None:
        """A stream ended. The last one frees the session, here and upstream: if `over` at once, else after grace."""
        held.streams -= 1
        if held.streams == 0 and over:
            self._free(name, held)
        elif held.streams == 0:
            held.session.pause()  # the next stream has a deadline and a request of its own, and so has its way upstream
            self._expire(name, held, self._grace_s)
        self._quieter.set()

    def keep(self, name: str, held: Held) -> None:
        """A text is over, and its session stays for a while, as long as there is room."""
        held.streams -= 1
        held.kept = True
        held.session.pause()
        self._expire(name, held, KEPT_S)
        self._quieter.set()

    async def quiet(self) -> None:
        """Wait until no stream serves any session."""
        while any(held.streams for held in self._held.values()):
            self._quieter.clear()
            await self._quieter.wait()

    async def close_all(self) -> None:
        """Free every session: the node stops."""
        for name, held in list(self._held.items()):
            self._free(name, held)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _expire(self, name: str, held: Held, after_s: float) -> None:
        held.expiry = asyncio.get_running_loop().call_later(after_s, self._free, name, held)

    def _make_room(self, name: str, positions: int) -> None:
        """Free sessions that no stream serves until this one fits; none if that is not enough. Kept ones first, then
        those whose stream broke: what either loses is computed again when it is asked.
        """
        others = {other: held for other, held in self._held.items() if other != name}
        idle = sorted((not held.kept, held.expiry.when(), other) for other, held in others.items() if held.expiry)
        given_way = {}
        while len(others) >= self._most or sum(h.positions for h in others.values()) + positions > self._positions:
            if not idle:
                raise self._full(len(others), positions)
            *_, other = idle.pop(0)
            given_way[other] = others.pop(other)
        for other, held in given_way.items():
            self._free(other, held)

    def _full(self, others: int, positions: int) -> BusyError:
        if others >= self._most:
            return BusyError(
                f"the node holds {self._most} sessions, as many as it may; try again later, or raise --max-sessions"
            )
        return BusyError(
            f"the memory for keys and values has room for {self._positions} positions, which the texts under way may "
            f"need, and this one {positions}; try again later, ask for fewer tokens, or raise --kv-memory"
        )

    def _free(self, name: str, held: Held) -> None:
        """Forget the session now, unless it is forgotten; telling the upstream goes on beside."""
        if self._held.get(name) is not held:
            return
        if held.expiry is not None:
            held.expiry.cancel()
        del self._held[name]
        task = asyncio.ensure_future(held.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
