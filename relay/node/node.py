"""`Node`: what one process serves, and how its sessions open. No gRPC server here; `servicers` and `serve` add it."""

import asyncio
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from family.manifest import Manifest
from relay import chain, wire
from relay.channel import open_channel
from relay.engine.engine import BundleEngine
from relay.errors import REQUEST_KEY, PeerMismatchError, UntrustedError, from_rpc
from relay.hop import Hop, Transport
from relay.names import Codec
from relay.node.config import NodeConfig
from relay.node.default import Default
from relay.node.memory import room
from relay.node.sessions import Sessions
from relay.node.text import TextCodec
from relay.node.upstream import GOODBYE_S, GrpcTransport, Link
from relay.pace import Costs, Pace
from relay.policy import FixedExit, SpeculativeExit, deepest_exit, drafting_exit
from relay.session import Session
from relay.tls import Peer
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc

F32_BYTES = 4
ID_BYTES = 4


class Node:
    """One tier's part of a family. Made on the event loop that serves it."""

    def __init__(
        self,
        config: NodeConfig,
        manifest: Manifest,
        engine: BundleEngine,
        text: TextCodec | None,
        chunk_invariant: bool,
        credentials: grpc.ChannelCredentials | None,
    ) -> None:
        """`credentials` are for the upstream."""
        self.config = config
        self.manifest = manifest
        self.engine = engine
        self.text = text
        """Present where segment 1 is."""
        self.chunk_invariant = chunk_invariant
        positions = room(manifest, engine.segments, config.kv_memory)
        self.sessions = Sessions(self.open_session, config.max_sessions, positions, config.grace_s)
        self.link = Link(config.upstream or "")
        self._paces: dict[tuple[int, int], Pace] = {}
        self.defaults: dict[Peer, Default] = {}
        """By caller, where one has set it."""
        self.agreed = {Codec.F32}
        """Codecs that all nodes upstream are known to know."""
        self._genesis = chain.genesis(manifest.export_fingerprint)
        used = config.upstream if engine.segments[-1] < manifest.spec.granularity else None
        self._channel = open_channel(used, credentials) if used else None
        """The way to the next segments; none where these are the last."""

    @property
    def first_segment(self) -> int:
        return self.engine.segments[0]

    @property
    def last_segment(self) -> int:
        return self.engine.segments[-1]

    @property
    def deepest_exit(self) -> int:
        """The deepest exit that this node can hope to reach."""
        return self.manifest.spec.granularity if self._channel else self.last_segment

    @property
    def sends_ids(self) -> bool:
        """Whether the upstream is sent token ids, and computes their rows itself."""
        return self._channel is not None and self.config.send == "ids"

    def default(self, owner: Peer) -> Default:
        """What the caller's texts do that choose nothing themselves."""
        return self.defaults.get(owner) or Default(FixedExit(self.deepest_exit), Codec.labelled(self.config.codec))

    def peer(self, positions: int = 0) -> pb.Peer:
        """How this node introduces itself upstream, and a text of so many positions."""
        return pb.Peer(
            tier=self.config.tier,
            family_fingerprint=self.manifest.family_fingerprint,
            export_fingerprint=self.manifest.export_fingerprint,
            boundary=0 if self.sends_ids else self.last_segment,
            positions=positions,
        )

    def pace(self, policy: SpeculativeExit) -> tuple[int, Pace]:
        """The exit that drafts for the policy here, and what texts under way and before have measured of its pace."""
        draft_exit = drafting_exit(policy, self.deepest_exit, self.last_segment)
        target = deepest_exit(policy, self.deepest_exit)
        return draft_exit, self._paces.setdefault((draft_exit, target), Pace())

    def open_session(self, name: str) -> Session:
        """A fresh session, with its way upstream if there is one; nothing is sent before an exit there is asked."""
        upstream = None
        if self._channel is not None:
            stub = rpc.HopStub(self._channel)

            def connect() -> Transport:
                return GrpcTransport(
                    stub,
                    self.link,
                    name,
                    self.peer(self.sessions.positions(name)),
                    self.manifest.spec,
                    timeout_s=self._remaining_s(name),
                    request_id=self.sessions.request_id(name),
                )

            upstream = Hop(connect, ID_BYTES if self.sends_ids else self.engine.d_model * F32_BYTES)
        return Session(
            self.engine,
            self._genesis,
            self.config.tier,
            upstream,
            sends_ids=self.sends_ids,
            sends_ahead=self.config.send == "ahead",
        )

    def check_peer(self, peer: pb.Peer) -> None:
        """Raise `PeerMismatchError` unless the sender's rows mean here what they mean there.

        `InvalidRequestError`: its tier's name cannot be shown.

        Segment 1 reads token ids, which a node sends that was started with `--send ids`.
        """
        mine = self.peer()
        wire.name("peer.tier", peer.tier)
        wire.check_positions(peer, self.manifest.spec)
        if peer.boundary != self.first_segment - 1:
            sent = f"rows after segment {peer.boundary}" if peer.boundary else "token ids"
            raise PeerMismatchError(
                f"tier {peer.tier!r} sends {sent}, but tier {mine.tier!r} begins with segment {self.first_segment}; "
                "correct --upstream, --tier, --segments or --send of one of the two"
            )
        for kind in ("family", "export"):
            theirs, ours = getattr(peer, f"{kind}_fingerprint"), getattr(mine, f"{kind}_fingerprint")
            if theirs != ours:
                raise PeerMismatchError(
                    f"tier {peer.tier!r} has {kind} {theirs[:12]}, tier {mine.tier!r} has {kind} {ours[:12]}; "
                    "copy the same bundle to both nodes"
                )

    async def describe(self, timeout_s: float, request_id: str) -> list[pb.Node]:
        """This node and those upstream of it, as far as they answer within `timeout_s`."""
        spec = self.manifest.spec
        me = pb.Node(
            tier=self.config.tier,
            version=version("familial"),
            first_segment=self.first_segment,
            last_segment=self.last_segment,
            granularity=spec.granularity,
            family=spec.name,
            family_fingerprint=self.manifest.family_fingerprint,
            export_fingerprint=self.manifest.export_fingerprint,
            precision=self.manifest.precision,
            context=spec.context,
            chunk_invariant=self.chunk_invariant,
            sessions=len(self.sessions),
            rss_bytes=resident_bytes(),
            sent=pb.Traffic(
                messages=self.link.messages,
                rows=self.link.rows,
                bytes=self.link.bytes,
                hop_ms_p50=self.link.hop_ms_at(0.5),
                hop_ms_p99=self.link.hop_ms_at(0.99),
                timed=_timed(*self.link.timed),
            ),
            upstream=(self.config.upstream or "") if self._channel else "",
            work=[pb.Work(graph=name, rows=w.rows, logits=w.logits) for name, w in self.engine.work.items()],
            codecs=[pb.Codec.ValueType(codec) for codec in Codec],
            paces=[_pace(*exits, pace) for exits, pace in self._paces.items()],
        )
        if self._channel is None:
            return [me]
        try:
            stub, metadata = rpc.RelayStub(self._channel), ((REQUEST_KEY, request_id),)
            health: Any = health_pb2_grpc.HealthStub(self._channel)  # its stubs leave the methods out
            asked = time.perf_counter()
            await health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            me.upstream_ms = (time.perf_counter() - asked) * 1e3
            reply = await stub.Describe(pb.DescribeRequest(), timeout=timeout_s, metadata=metadata)
            begins = 1 if self.sends_ids else self.last_segment + 1
            if not reply.nodes or reply.nodes[0].first_segment != begins:
                me.upstream_error = f"it does not begin with segment {begins}; correct --upstream or --send"
            elif reply.nodes[0].export_fingerprint != self.manifest.export_fingerprint:
                me.upstream_error = "it has another export; copy one bundle to both nodes"
            else:
                return [me, *reply.nodes]
        except aio.AioRpcError as error:
            found = from_rpc(error, self.link.address, request_id)
            untrusted = isinstance(found, UntrustedError)
            me.upstream_error = str(found) if untrusted else error.code().name.lower().replace("_", " ")
        return [me]

    async def close(self) -> None:
        """Free every session and the engine's thread."""
        await self.sessions.close_all()
        if self._channel is not None:
            await self._channel.close()
        self.engine.close()

    def _remaining_s(self, name: str) -> float | None:
        deadline = self.sessions.deadline(name)
        if deadline is None:
            return None
        # Longer than this node's own, so that it can still say goodbye upstream when its own passes.
        return max(0.0, deadline - asyncio.get_running_loop().time()) + GOODBYE_S


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def _timed(count: float, x: float, y: float, xx: float, xy: float, yy: float) -> pb.Timed:
    return pb.Timed(count=int(count), x=x, y=y, xx=xx, xy=xy, yy=yy)


def _pace(draft_exit: int, target_exit: int, pace: Pace) -> pb.Pace:
    costs = pace.costs or Costs(0.0, 0.0, 0.0)
    return pb.Pace(
        draft_exit=draft_exit,
        target_exit=target_exit,
        right=pace.right,
        draft_ms=costs.draft_ms,
        verify_ms=costs.verify_ms,
        row_ms=costs.row_ms,
        checked=pace.total_checked,
        accepted=pace.total_right,
    )
