"""Every error that crosses the wire, provoked on real nodes and seen from the SDK, the command line and plain gRPC."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from relay import hop
from relay.client.sync import RelayClient
from relay.client.types import GenerateOptions, Prompt
from relay.errors import CATALOGUE, CODE_KEY, REQUEST_KEY, RelayError
from relay.policy import FixedExit
from relay.tls import NOBODY
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.certificates import Authority
from tests.relay.processes import free_port, in_background, one_line_error, run
from tests.relay.servers import HOST, address, config, running
from tests.relay.test_replies import Upstream, device_of


@dataclass(frozen=True)
class Ask:
    """One request, as each of the three faces makes it."""

    address: str
    prompt: Prompt = "tea"
    options: GenerateOptions | None = None
    flags: tuple[str, ...] = ()
    message: pb.GenerateRequest | None = None


Situation = Callable[[Path], AbstractAsyncContextManager[Ask]]
SITUATIONS: dict[str, Situation] = {}


def situation(code: str) -> Callable[[Callable[[Path], AsyncIterator[Ask]]], None]:
    def register(make: Callable[[Path], AsyncIterator[Ask]]) -> None:
        SITUATIONS[code] = asynccontextmanager(make)

    return register


def asking(where: str, exit_: int) -> Ask:
    policy = pb.Policy(exit=exit_)
    message = pb.GenerateRequest(text="tea", policy=policy)
    return Ask(where, options={"policy": FixedExit(exit_)}, flags=("--exit", str(exit_)), message=message)


@situation("invalid-request")
async def _empty(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device")) as device:
        yield Ask(address(device), prompt="", message=pb.GenerateRequest(text=""))


@situation("prompt-too-long")
async def _long(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device")) as device:
        yield Ask(address(device), prompt="tea " * 500, message=pb.GenerateRequest(text="tea " * 500))


@situation("unknown-exit")
async def _ninth_exit(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device")) as device:
        yield asking(address(device), 9)


@situation("ids-unknown")
async def _penalty_beyond(bundle: Path) -> AsyncIterator[Ask]:
    async with (
        running(config(bundle, "edge")) as edge,
        running(config(bundle, "device", edge)) as device,
    ):
        message = pb.GenerateRequest(text="tea", penalties=pb.Penalties(presence=1))
        yield Ask(address(device), options={"presence_penalty": 1}, flags=("--presence-penalty", "1"), message=message)


@situation("peer-mismatch")
async def _gap(bundle: Path) -> AsyncIterator[Ask]:
    async with (
        running(config(bundle, "cloud")) as cloud,
        running(config(bundle, "device", cloud)) as device,
    ):
        yield asking(address(device), 3)


@situation("upstream")
async def _nonsense(bundle: Path) -> AsyncIterator[Ask]:
    async with device_of(Upstream(lambda reply, _: reply.answer.tokens.append(6)), bundle) as (device, _):
        yield asking(address(device), 2)


@situation("no-upstream")
async def _alone(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device")) as device:
        yield asking(address(device), 3)


@situation("not-ready")
async def _draining(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device")) as device:
        device._readiness.draining = True
        yield Ask(address(device), message=pb.GenerateRequest(text="tea"))


@situation("unreachable")
async def _upstream_gone(bundle: Path) -> AsyncIterator[Ask]:
    async with running(replace(config(bundle, "device"), upstream=f"{HOST}:{free_port()}")) as device:
        yield asking(address(device), 3)


@situation("untrusted")
async def _no_tls_upstream(bundle: Path) -> AsyncIterator[Ask]:
    with TemporaryDirectory() as folder:
        machine = Authority(Path(folder)).machine("device")
        async with (
            running(config(bundle, "edge")) as edge,
            running(config(bundle, "device", edge, upstream_ca=machine.ca)) as device,
        ):
            yield asking(address(device), 2)


@situation("busy")
async def _full(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device", max_sessions=1)) as device:
        held = device.node.sessions.enter("first", NOBODY, 9, None, "request")
        yield Ask(address(device), message=pb.GenerateRequest(text="tea"))
        device.node.sessions.leave("first", held, over=True)


@situation("internal")
async def _defect(bundle: Path) -> AsyncIterator[Ask]:
    async with running(config(bundle, "device")) as device:

        async def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("secret")

        device.node.engine.run = broken  # type: ignore[method-assign]
        yield asking(address(device), 1)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (0.0, 0.0))


@pytest.mark.parametrize("code", list(SITUATIONS))
def test_an_error_is_the_same_from_the_sdk_the_command_line_and_plain_grpc(code: str, tiny_bundle: Path) -> None:
    kind = CATALOGUE[code]
    with in_background(SITUATIONS[code](tiny_bundle)) as ask:
        with RelayClient(ask.address) as client, pytest.raises(RelayError) as raised:
            list(client.generate(ask.prompt, **(ask.options or {})))
        assert type(raised.value) is kind and raised.value.request_id

        assert isinstance(ask.prompt, str)
        line = one_line_error(run("relay", "generate", ask.prompt, *ask.flags, "--node", ask.address))
        said = str(raised.value).replace(raised.value.request_id, "")
        assert line.startswith(f"error: {said.strip()}")

        with grpc.insecure_channel(ask.address) as channel, pytest.raises(grpc.RpcError) as refused:
            list(rpc.RelayStub(channel).Generate(ask.message, metadata=((REQUEST_KEY, "mine"),)))
        error: Any = refused.value
        trailing = dict(error.trailing_metadata())
        assert (error.code(), trailing[CODE_KEY], trailing[REQUEST_KEY]) == (kind.status, code, "mine")
        assert error.details().replace("mine", "").strip() == said.strip()
        assert "secret" not in line + error.details()


ELSEWHERE = {
    "timeout": "the client's own deadline; test_cli.py, test_errors.py and test_node_errors.py",
    "unknown-session": "Steer alone; test_options.py, and below",
    "foreign-session": "two certificates and one session id, which commands draw; test_tls.py",
    "closed": "the SDK alone; test_node_errors.py",
    "configuration": "relay-node alone; test_bundles_at_start.py",
}


def test_no_error_is_left_out() -> None:
    assert set(SITUATIONS) | set(ELSEWHERE) == set(CATALOGUE)


def test_steering_what_is_not_under_way_has_its_status_and_code(tiny_bundle: Path) -> None:
    with in_background(running(config(tiny_bundle, "device"))) as device:
        with grpc.insecure_channel(address(device)) as channel, pytest.raises(grpc.RpcError) as refused:
            rpc.RelayStub(channel).Steer(pb.SteerRequest(session="nobody", policy=pb.Policy(exit=1)))
        error: Any = refused.value
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert dict(error.trailing_metadata())[CODE_KEY] == "unknown-session"
        with grpc.insecure_channel(address(device)) as channel, pytest.raises(grpc.RpcError) as refused:
            rpc.RelayStub(channel).Steer(pb.SteerRequest(session="nobody"))
        assert "the request has no policy" in refused.value.details()  # type: ignore[attr-defined]
