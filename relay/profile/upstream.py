"""The way to an upstream node: round trips and rates, with the one verb of relaying.

Rows that do not fit the upstream's history are refused once they have arrived, and nothing is computed: so their time
is that of the way up. Of an answer with logits and one without, the difference is the logits' way down.
"""

import asyncio
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import grpc
import numpy as np
from grpc import aio

from family.manifest import Manifest, load_manifest
from family.profile import LinkProfile
from relay import chain, wire
from relay.channel import open_channel
from relay.errors import REQUEST_KEY, PeerMismatchError, from_rpc, new_request_id
from relay.hop import Envelope
from relay.messages import Advance, Question
from relay.names import Codec
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc

PINGS = 20
ANSWERS = 5
"""With logits, and without."""
LEAST_BYTES, MOST_BYTES = 1 << 16, 1 << 22
FILL_S = 0.5
"""About so long the way up is filled."""
WARM_UP = 3
"""Messages until the connection's window is open."""


async def measure_upstream(
    bundle: Path, address: str, credentials: grpc.ChannelCredentials | None = None
) -> LinkProfile:
    """Round trips and rates to the node at `address`, which has the same bundle. Raises `RelayError`."""
    manifest, request_id = load_manifest(bundle), new_request_id()
    channel = open_channel(address, credentials)
    metadata = ((REQUEST_KEY, request_id),)
    try:
        described = await rpc.RelayStub(channel).Describe(pb.DescribeRequest(), metadata=metadata)
        node = described.nodes[0]
        if node.export_fingerprint != manifest.export_fingerprint:
            raise PeerMismatchError(f"the node at {address} has another bundle than {bundle}; give the one that it has")
        stream = _Stream(rpc.HopStub(channel).Advance(metadata=metadata), manifest, node.first_segment)
        try:
            return await _measure(stream, address)
        finally:
            await stream.close()
    except aio.AioRpcError as error:
        raise from_rpc(error, address, request_id) from None
    finally:
        await channel.close()


async def _measure(stream: "_Stream", address: str) -> LinkProfile:
    small, _ = await stream.refused(1)
    times = sorted([(await stream.refused(1))[1] for _ in range(PINGS)])
    rtt_s = median(times)
    size, took_s = LEAST_BYTES, rtt_s
    for _ in range(WARM_UP):
        carried, took_s = await stream.refused(stream.rows_of(size))
        size = int(min(MOST_BYTES, max(LEAST_BYTES, carried * FILL_S / max(took_s - rtt_s, 1e-4))))
    carried, took_s = await stream.refused(stream.rows_of(size))
    plain = [await stream.answered(logits=False) for _ in range(1 + ANSWERS)][1:]
    full = [await stream.answered(logits=True) for _ in range(1 + ANSWERS)][1:]
    more_bytes = median(b for b, _ in full) - median(b for b, _ in plain)
    more_s = max(1e-6, median(s for _, s in full) - median(s for _, s in plain))
    up_bps = 8 * (carried - small) / max(1e-6, took_s - rtt_s)
    on_the_way_s = 8 * small / up_bps
    return LinkProfile(
        upstream=address,
        rtt_ms=round((rtt_s - on_the_way_s) * 1e3, 3),
        rtt_p95_ms=round((quantiles(times, n=20)[-1] - on_the_way_s) * 1e3, 3),
        up_bps=round(up_bps, 1),
        down_bps=round(8 * more_bytes / more_s, 1),
    )


class _Stream:
    """One session at the upstream."""

    def __init__(self, call: Any, manifest: Manifest, first_segment: int) -> None:
        self._call = call
        self._spec = manifest.spec
        self._first = first_segment
        self._session = f"profile-{new_request_id()}"
        self._chain = [chain.genesis(manifest.export_fingerprint)]
        self._seq = 0
        self._peer: pb.Peer | None = pb.Peer(
            tier="profile",
            family_fingerprint=manifest.family_fingerprint,
            export_fingerprint=manifest.export_fingerprint,
            boundary=first_segment - 1,
        )

    def rows_of(self, size: int) -> int:
        """So many rows have about that size in a message."""
        row_bytes = chain.VALUE_BYTES + (4 * self._spec.d_model if self._first > 1 else 3)
        return max(1, min(size // row_bytes, self._spec.context // 2))

    async def refused(self, count: int) -> tuple[int, float]:
        """Rows that continue no history: bytes, and seconds until they were refused."""
        nobody = bytes(chain.VALUE_BYTES)
        question = Question(self._first, want=0)
        message = Advance(1, nobody, (nobody,) * count, self._rows(count), question, Codec.F32)
        return await self._exchange(message, up=True)

    async def answered(self, *, logits: bool) -> tuple[int, float]:
        """One more row with an answer: its bytes, and seconds without the upstream's engine."""
        (value,) = chain.extend(self._chain[-1], [len(self._chain)], Codec.F32)
        question = Question(self._first, want=1, logits=logits)
        message = Advance(len(self._chain) - 1, self._chain[-1], (value,), self._rows(1), question, Codec.F32)
        self._chain.append(value)
        return await self._exchange(message, up=False)

    async def close(self) -> None:
        """Say goodbye."""
        await self._call.write(pb.AdvanceRequest(session=self._session, goodbye=True))
        await self._call.done_writing()
        while await self._call.read() is not aio.EOF:
            await asyncio.sleep(0)

    def _rows(self, count: int) -> Any:
        rng = np.random.default_rng(self._seq)
        if self._first == 1:
            return rng.integers(0, self._spec.vocab_size, count)
        return rng.standard_normal((count, self._spec.d_model), dtype=np.float32)

    async def _exchange(self, message: Advance, *, up: bool) -> tuple[int, float]:
        self._seq += 1
        sent = wire.request(self._session, Envelope(1, self._seq, message), self._peer)
        self._peer = None
        started = time.perf_counter()
        await self._call.write(sent)
        reply = await self._call.read()
        took_s = time.perf_counter() - started - reply.answer.engine_ms / 1e3
        return sent.ByteSize() if up else reply.ByteSize(), took_s
