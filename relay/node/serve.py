"""From a configuration to a serving process: load, self-test, report ready, drain on SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from family.manifest import Manifest, load_manifest
from relay.channel import SERVER_OPTIONS, bind
from relay.engine.engine import BundleEngine
from relay.engine.selftest import is_chunk_invariant
from relay.errors import ConfigurationError
from relay.node.config import NodeConfig, segments_of
from relay.node.decoding import DecodingInterceptor
from relay.node.node import Node
from relay.node.servicers import HopServicer, Readiness, RelayServicer
from relay.node.text import TextCodec
from relay.tls import client_credentials, server_credentials
from relay.v1 import relay_pb2_grpc as rpc

log = logging.getLogger("relay.node")

LAST_WORDS_S = 1.0
"""How long the last replies may take to leave when nothing runs any more."""
HEALTH_SERVICES = ("", "relay.v1.Relay", "relay.v1.Hop")


class NodeServer:
    """One node's gRPC server. `start` returns when it is ready; `stop` drains it."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.port = 0
        """The bound port, after `start`."""
        self._readiness = Readiness()
        self._health = health.aio.HealthServicer()
        self._server: aio.Server | None = None

    @property
    def node(self) -> Node:
        """The node, after `start`."""
        return self._readiness.ready()

    async def start(self) -> None:
        """Bind, load, self-test, report ready. Raises `ConfigurationError`, `ManifestError` or `BundleError`."""
        config = self.config
        manifest = load_manifest(config.bundle)
        segments = segments_of(config, manifest)
        shown = server_credentials(config.tls_cert, config.tls_key, config.tls_client_ca)
        upstream = client_credentials(config.upstream_ca, config.upstream_cert, config.upstream_key, "upstream-")
        self._server = await self._bind(shown)
        loading = asyncio.get_running_loop().run_in_executor(None, _load, config, manifest, segments)
        try:
            engine, text, invariant = await loading
        except BaseException:
            await self._server.stop(None)
            raise
        self._readiness.node = Node(config, manifest, engine, text, invariant, upstream)
        await self._report(serving=True)
        if not invariant:
            log.warning(
                "the kernels of this machine are not chunk-invariant: results may differ in the last bit with how rows "
                "are cut into forwards; replay of the same rows stays exact to rounding"
            )

    async def stop(self) -> None:
        """Refuse new work, let running requests finish for `drain_s`, free everything."""
        self._readiness.draining = True
        await self._report(serving=False)
        if self._readiness.node is not None:  # the port stays open meanwhile: who asks is told why not
            with suppress(TimeoutError):
                await asyncio.wait_for(self._readiness.node.sessions.quiet(), self.config.drain_s)
        if self._server is not None:
            await self._server.stop(min(LAST_WORDS_S, self.config.drain_s))
        if self._readiness.node is not None:
            await self._readiness.node.close()

    async def _bind(self, credentials: grpc.ServerCredentials | None) -> aio.Server:
        server = aio.server(interceptors=(DecodingInterceptor(),), options=SERVER_OPTIONS)
        rpc.add_RelayServicer_to_server(RelayServicer(self._readiness), server)
        rpc.add_HopServicer_to_server(HopServicer(self._readiness), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._report(serving=False)
        try:
            self.port = bind(server, self.config.listen, credentials)
        except RuntimeError:
            raise ConfigurationError(
                f"cannot listen on {self.config.listen}: the port is in use, or the address is not of this machine; "
                "choose another with --listen HOST:PORT"
            ) from None
        await server.start()
        return server

    async def _report(self, *, serving: bool) -> None:
        known = health_pb2.HealthCheckResponse
        status = known.SERVING if serving else known.NOT_SERVING
        for service in HEALTH_SERVICES:
            await self._health.set(service, status)


def _load(
    config: NodeConfig, manifest: Manifest, segments: tuple[int, ...]
) -> tuple[BundleEngine, TextCodec | None, bool]:
    """The slow part of the start: verify and open files, run the self-test."""
    threads = config.threads or os.cpu_count() or 1
    engine = BundleEngine(config.bundle, manifest, segments, threads, config.max_sessions)
    text = TextCodec(config.bundle, manifest) if segments[0] == 1 else None
    invariant = is_chunk_invariant(engine, manifest.spec)
    engine.forget_work()
    return engine, text, invariant


async def serve(config: NodeConfig, ready: Callable[[NodeServer], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` is called once the node answers."""
    server = NodeServer(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start()
    if not stop.is_set():
        ready(server)
        _warn_of_gaps(server.node)
    await stop.wait()
    log.info("draining: running requests have %.0f s", config.drain_s)
    await server.stop()


def _warn_of_gaps(node: Node) -> None:
    """Say at once what a wrong start would show only when a deep exit is asked."""
    depth = node.manifest.spec.granularity
    if node.last_segment < depth and node.config.upstream is None:
        log.warning("no --upstream: exits %d to %d are out of this node's reach", node.last_segment + 1, depth)
    if node.last_segment == depth and node.config.upstream is not None:
        log.warning("--upstream is not used: this node serves the last segment, %d", depth)
