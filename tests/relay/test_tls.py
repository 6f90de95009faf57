"""TLS and mutual TLS: real nodes, real certificates, and what is said when they do not fit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from family.manifest import load_manifest
from relay import hop
from relay.client.aio import AsyncRelayClient
from relay.client.sync import RelayClient
from relay.errors import (
    CODE_KEY,
    ConfigurationError,
    ForeignSessionError,
    RelayError,
    UnreachableError,
    UntrustedError,
)
from relay.node.serve import NodeServer
from relay.policy import ExitSchedule, FixedExit
from relay.v1 import relay_pb2 as pb
from relay.v1 import relay_pb2_grpc as rpc
from tests.relay.certificates import Authority, Machine, openssl
from tests.relay.processes import PATIENCE_S, in_background, one_line_error, run
from tests.relay.servers import HOST, address, chain, config, running, text
from tests.relay.test_peer_messages import advance

PROMPT = "The tide"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("certificates"))
    made.machine("phone")
    return made


@pytest.fixture(scope="module")
def phone(authority: Authority) -> Machine:
    return authority.machine("phone")


@pytest.fixture(scope="module")
def tablet(authority: Authority) -> Machine:
    return authority.machine("tablet")


@pytest.fixture(scope="module")
def node(authority: Authority) -> Machine:
    return authority.node("node")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Of another authority."""
    return Authority(tmp_path_factory.mktemp("strangers")).node("stranger")


@asynccontextmanager
async def mutual_chain(bundle: Path, node: Machine, **overrides: Any) -> AsyncIterator[list[NodeServer]]:
    """Device, edge and cloud that all ask for certificates."""
    async with AsyncExitStack() as stack:
        upstream, servers = None, []
        for tier in ("cloud", "edge", "device"):
            settings = config(bundle, tier, upstream, **node.mutual, **node.upward, **overrides)
            upstream = await stack.enter_async_context(running(settings))
            servers.append(upstream)
        yield servers[::-1]


# A chain of nodes.


def test_a_chain_with_mutual_tls_gives_the_text_of_one_without(
    tiny_bundle: Path, node: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        options = {"policy": ExitSchedule(1), "max_tokens": 12, "ignore_stop": True}
        async with chain(tiny_bundle) as plain, mutual_chain(tiny_bundle, node) as (device, *_):
            wanted = await text(plain.device, PROMPT, **options)
            async with AsyncRelayClient(address(device), **phone.client) as client:
                found = [token async for token in client.generate(PROMPT, **options)]  # type: ignore[arg-type]
                assert [token.id for token in found] == [token.id for token in wanted]
                assert {token.tier for token in found} == {"device", "edge", "cloud"}
                nodes = await client.describe()
                assert [n.tier for n in nodes] == ["device", "edge", "cloud"]
                assert not any(n.upstream_error for n in nodes)

    asyncio.run(scenario())


def test_the_commands_and_the_blocking_client_speak_tls(tiny_bundle: Path, node: Machine, phone: Machine) -> None:
    with in_background(running(config(tiny_bundle, "device", **node.mutual))) as device:
        where = address(device)
        with RelayClient(where, **phone.client) as client:
            assert len(list(client.generate(PROMPT, policy=FixedExit(1), max_tokens=3, ignore_stop=True))) == 3
        asked = ("--node", where, *phone.flags)
        assert run("relay", "health", *asked).stdout == "serving\n"
        assert run("relay", "generate", PROMPT, "--exit", "1", "--max-tokens", "3", *asked).returncode == 0
        assert "device: " in run("relay", "describe", *asked).stdout
        variables = {f"RELAY_{name.upper()}": str(file) for name, file in phone.client.items()}
        assert run("relay", "health", RELAY_NODE=where, **variables).stdout == "serving\n"
        hint = f"what answers at {where} hangs up at once: it may want TLS (ca, upstream-ca)"
        refused = run("relay", "health", "--node", where)
        assert refused.returncode == 1 and refused.stderr.startswith(f"error: {hint}")
        assert one_line_error(run("relay", "generate", PROMPT, "--node", where)).startswith(f"error: {hint}")


def test_without_a_client_authority_nobody_needs_a_certificate(
    tiny_bundle: Path, node: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device", **node.server)) as device:
            for given in ({"ca": str(node.ca)}, phone.client):
                async with AsyncRelayClient(address(device), **given) as client:  # type: ignore[arg-type]
                    assert (await client.describe())[0].tier == "device"

    asyncio.run(scenario())


# Who does not trust whom.


@asynccontextmanager
async def silent(machine: Machine, client_ca: Path | None = None) -> AsyncIterator[str]:
    """A server that shows any certificate, one that a node would refuse to start with too."""
    server = aio.server()
    pair = (machine.key.read_bytes(), machine.cert.read_bytes())
    roots = None if client_ca is None else client_ca.read_bytes()
    port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([pair], roots, roots is not None))
    await server.start()
    try:
        yield f"{HOST}:{port}"
    finally:
        await server.stop(None)


async def refusal(where: str, **files: Path) -> RelayError:
    async with AsyncRelayClient(where, **files) as client:
        with pytest.raises(RelayError) as raised:
            await client.describe(timeout=PATIENCE_S)
    return raised.value


def test_a_certificate_of_another_authority_is_not_trusted(node: Machine, stranger: Machine) -> None:
    async def scenario() -> None:
        async with silent(stranger) as where:
            error = await refusal(where, ca=node.ca)
            assert type(error) is UntrustedError
            assert f"the certificate of the node at {where} does not hold: unable to get local issuer" in str(error)

    asyncio.run(scenario())


def test_a_certificate_that_expired_or_has_another_name_is_not_trusted(authority: Authority, node: Machine) -> None:
    async def scenario() -> None:
        for machine, problem in (
            (authority.odd("old", "-days", "-1", extensions=f"subjectAltName=IP:{HOST}"), "certificate has expired"),
            (authority.machine("elsewhere.example"), "it is of another name"),
        ):
            async with silent(machine) as where:
                error = await refusal(where, ca=node.ca)
                assert type(error) is UntrustedError
                assert f"does not hold: {problem}; give the authority that signed it" in str(error)

    asyncio.run(scenario())


def test_a_node_without_tls_is_told_from_one_that_is_not_there(tiny_bundle: Path, node: Machine) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as device:
            error = await refusal(address(device), ca=node.ca)
            assert type(error) is UntrustedError
            assert f"the node at {address(device)} does not speak TLS; start it with --tls-cert" in str(error)

    asyncio.run(scenario())


def test_clients_that_a_node_does_not_know_are_hung_up_on(
    tiny_bundle: Path, authority: Authority, node: Machine, stranger: Machine
) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device", **node.mutual)) as device:
            nobody: dict[str, Path] = {}
            for files in (nobody, {"ca": node.ca}, {**stranger.client, "ca": node.ca}):
                error = await refusal(address(device), **files)
                assert type(error) is UnreachableError
                hint = "hangs up at once: it may want TLS (ca, upstream-ca), a certificate of an authority that"
                assert hint in str(error)
            channel = channel_of(address(device), authority.odd("old-client", "-days", "-1"))
            with pytest.raises(aio.AioRpcError) as refused:
                await rpc.RelayStub(channel).Describe(pb.DescribeRequest(), timeout=PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            await channel.close()

    asyncio.run(scenario())


def test_a_hop_does_not_try_again_what_a_certificate_forbids(
    tiny_bundle: Path, node: Machine, stranger: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "RECONNECT_DELAYS_S", (10 * PATIENCE_S,))

    async def scenario() -> None:
        async with running(config(tiny_bundle, "edge", **stranger.server)) as edge:
            settings = config(tiny_bundle, "device", edge, upstream_ca=node.ca)
            async with running(settings) as device, AsyncRelayClient(address(device)) as client:
                with pytest.raises(UntrustedError, match=f"the certificate of the node at {address(edge)} does not"):
                    async for _ in client.generate(PROMPT, policy=FixedExit(2), timeout=PATIENCE_S):
                        pass
                (alone,) = await client.describe()
                assert "does not hold" in alone.upstream_error

    asyncio.run(scenario())


# Files.


Change = Callable[[Machine, Path, Authority, Machine], dict[str, Path | None]]
WRONG_FILES: dict[str, tuple[Change, str]] = {
    "missing": (lambda m, t, a, s: {"cert": t / "none.pem"}, r"{p}cert: \S+none.pem: cannot be read: No such file"),
    "a folder": (lambda m, t, a, s: {"key": t}, r"{p}key: \S+: cannot be read: Is a directory"),
    "no key": (lambda m, t, a, s: {"key": None}, r"{p}cert: is of no use alone: give {p}key too"),
    "no certificate": (lambda m, t, a, s: {"cert": None}, r"{p}key: is of no use alone: give {p}cert too"),
    "another's key": (lambda m, t, a, s: {"key": s.key}, r"{p}key: \S+: it is not the key of \S+; give the two"),
    "swapped": (lambda m, t, a, s: {"cert": m.key, "key": m.cert}, r"{p}cert: .*expected PEM files, a certificate and"),
    "encrypted": (
        lambda m, t, a, s: {"key": encrypted(m, t)},
        r"{p}key: \S+: it is encrypted; decrypt it with `openssl",
    ),
    "expired": (lambda m, t, a, s: shown(a.odd("e", "-days", "-1")), r"{p}cert: \S+: certificate has expired; make"),
    "not a CA": (lambda m, t, a, s: {"ca": m.cert}, r"ca: \S+: no certificate in it is an authority's; give the one"),
    "no CA": (lambda m, t, a, s: {"ca": m.key}, r"ca: \S+: expected the certificate of an authority in PEM format"),
    "CA expired": (lambda m, t, a, s: {"ca": expired_authority(t)}, r"ca: \S+: certificate has expired; make another"),
}


def shown(machine: Machine) -> dict[str, Path | None]:
    return {"cert": machine.cert, "key": machine.key}


def encrypted(machine: Machine, folder: Path) -> Path:
    file = folder / "encrypted.pem"
    file.write_bytes(openssl("pkey", "-in", str(machine.key), "-aes256", "-passout", "pass:secret"))
    return file


def expired_authority(folder: Path) -> Path:
    file, key, extensions = (folder / name for name in ("old-ca.pem", "old-ca-key.pem", "old-ca.cnf"))
    key.write_bytes(openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    extensions.write_text("basicConstraints=critical,CA:TRUE")
    request = openssl("req", "-new", "-key", str(key), "-subj", "/CN=old")
    given = ("-signkey", str(key), "-extfile", str(extensions), "-days", "-1")
    file.write_bytes(openssl("x509", "-req", *given, stdin=request))
    return file


@pytest.mark.parametrize("what", list(WRONG_FILES))
def test_wrong_files_are_refused_by_their_setting_before_anything_is_served_or_asked(
    what: str, tiny_bundle: Path, tmp_path: Path, authority: Authority, node: Machine, stranger: Machine
) -> None:
    change, problem = WRONG_FILES[what]
    given: dict[str, Any] = {**node.client, **change(node, tmp_path, authority, stranger)}
    with pytest.raises(ConfigurationError, match="^" + problem.replace("{p}", "")):
        RelayClient("localhost:1", **given)
    for names, prefix in (
        ({"cert": "tls_cert", "key": "tls_key", "ca": "tls_client_ca"}, "tls-"),
        ({name: f"upstream_{name}" for name in given}, "upstream-"),
    ):
        settings = config(tiny_bundle, "device", **{names[name]: file for name, file in given.items()})
        with pytest.raises(ConfigurationError, match=r"^[a-z-]*" + problem.replace("{p}", prefix)):
            asyncio.run(NodeServer(settings).start())


def test_certificates_that_nothing_asks_for_are_told(tiny_bundle: Path, node: Machine) -> None:
    with pytest.raises(ConfigurationError, match="cert: is shown over TLS only: give ca too"):
        RelayClient("localhost:1", cert=node.cert, key=node.key)
    with pytest.raises(ConfigurationError, match="tls-client-ca: asks for clients' certificates"):
        asyncio.run(NodeServer(config(tiny_bundle, "device", tls_client_ca=node.ca)).start())


def test_a_certificate_for_clients_only_is_none_for_a_node(tiny_bundle: Path, authority: Authority) -> None:
    machine = authority.odd("app", extensions="extendedKeyUsage=clientAuth")
    with pytest.raises(ConfigurationError, match=r"tls-cert: .*unsuitable certificate purpose"):
        asyncio.run(NodeServer(config(tiny_bundle, "device", **machine.server)).start())
    RelayClient("localhost:1", **machine.client).close()


def test_the_node_command_says_it_in_one_line(tiny_bundle: Path, node: Machine, stranger: Machine) -> None:
    flags = ("--tls-cert", str(node.cert), "--tls-key", str(stranger.key))
    done = run("relay-node", "--tier", "device", "--bundle", str(tiny_bundle), "--listen", f"{HOST}:0", *flags)
    assert one_line_error(done).startswith(f"error: tls-key: {stranger.key}: it is not the key of {node.cert}")


# Whose session it is.


def channel_of(where: str, machine: Machine) -> aio.Channel:
    pair = (machine.key.read_bytes(), machine.cert.read_bytes())
    return aio.secure_channel(where, grpc.ssl_channel_credentials(machine.ca.read_bytes(), *pair))


def test_a_kept_session_is_its_peers_alone(
    tiny_bundle: Path, authority: Authority, node: Machine, phone: Machine, tablet: Machine
) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device", **node.mutual)) as device:
            async with (
                AsyncRelayClient(address(device), **phone.client) as mine,
                AsyncRelayClient(address(device), **tablet.client) as other,
            ):
                options: dict[str, Any] = {"policy": FixedExit(1), "max_tokens": 3, "ignore_stop": True}
                kept = mine.generate(PROMPT, session="diary", keep=True, **options)
                first = [token.id async for token in kept]
                with pytest.raises(ForeignSessionError, match="session diary was opened by another peer; choose"):
                    async for _ in other.generate(PROMPT, session="diary", **options):
                        pass
                assert "diary" in device.node.sessions
                again = mine.generate(PROMPT, session="diary", keep=True, **options)
                assert [token.id async for token in again] == first
                assert again.finish is not None and again.finish.cached_tokens > 0

            renewed = authority.machine("phone")  # another key and certificate, the same names
            async with AsyncRelayClient(address(device), **renewed.client) as mine:
                stream = mine.generate(PROMPT, session="diary", **options)
                assert [token.id async for token in stream] == first
                assert stream.finish is not None and stream.finish.cached_tokens > 0

    asyncio.run(scenario())


def test_only_who_began_a_text_steers_it(tiny_bundle: Path, node: Machine, phone: Machine, tablet: Machine) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device", **node.mutual)) as device:
            channel = channel_of(address(device), tablet)
            async with AsyncRelayClient(address(device), **phone.client) as mine:
                stream = mine.generate(PROMPT, session="mine", policy=FixedExit(1), ignore_stop=True)
                await anext(stream)
                request = pb.SteerRequest(session="mine", policy=pb.Policy(exit=1))
                with pytest.raises(aio.AioRpcError) as refused:
                    await rpc.RelayStub(channel).Steer(request)
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
                assert dict(refused.value.trailing_metadata() or ())[CODE_KEY] == "foreign-session"
                assert await stream.steer(FixedExit(1))
                await stream.aclose()
            await channel.close()

    asyncio.run(scenario())


def test_a_new_stream_of_the_same_peer_fences_the_old_and_no_other_peers_can(
    tiny_bundle: Path, node: Machine, phone: Machine, tablet: Machine
) -> None:
    manifest = load_manifest(tiny_bundle)

    async def scenario() -> None:
        async with running(config(tiny_bundle, "edge", **node.mutual)) as edge:
            mine = channel_of(address(edge), phone)
            theirs = channel_of(address(edge), tablet)

            async def ask(channel: aio.Channel, epoch: int) -> tuple[Any, Any]:
                call: Any = rpc.HopStub(channel).Advance(timeout=PATIENCE_S)
                await call.write(advance(manifest, epoch=epoch))
                return call, await call.read()

            old, reply = await ask(mine, 5)
            assert reply.WhichOneof("result") == "answer"
            with pytest.raises(aio.AioRpcError) as refused:
                await ask(theirs, 1 << 40)
            assert dict(refused.value.trailing_metadata() or ())[CODE_KEY] == "foreign-session"
            await old.write(advance(manifest, epoch=5, seq=2))  # the old stream is not fenced
            assert (await old.read()).WhichOneof("result") == "answer"
            new, reply = await ask(mine, 6)
            assert reply.WhichOneof("result") == "answer"
            await old.write(advance(manifest, epoch=5, seq=3))
            assert (await old.read()).stale.current_epoch == 6
            for call in (old, new):
                call.cancel()
            await mine.close()
            await theirs.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("/CN=a", ""), ("/CN=a", ""), True),
        (("/CN=a", ""), ("/CN=b", ""), False),
        (("/CN=a", "subjectAltName=DNS:x,DNS:y"), ("/CN=b", "subjectAltName=DNS:y,DNS:x"), True),
        (("/CN=a", "subjectAltName=DNS:x"), ("/CN=a", "subjectAltName=DNS:y"), False),
        (("/O=a", ""), ("/O=a", ""), False),  # no names: the certificate itself
    ],
    ids=["common name", "other common name", "alternative names", "other alternative name", "no name"],
)
def test_a_peer_is_the_names_in_its_certificate(
    tiny_bundle: Path,
    authority: Authority,
    node: Machine,
    one: tuple[str, str],
    other: tuple[str, str],
    same: bool,
) -> None:
    async def scenario() -> None:
        machines = [authority.odd(name, subject=s, extensions=e) for name, (s, e) in (("one", one), ("other", other))]
        async with running(config(tiny_bundle, "device", **node.mutual)) as device:
            for machine, welcome in zip(machines, (True, same), strict=True):
                async with AsyncRelayClient(address(device), **machine.client) as client:
                    stream = client.generate(PROMPT, session="s", keep=True, policy=FixedExit(1), max_tokens=1)
                    if welcome:
                        assert len([token async for token in stream]) == 1
                    else:
                        with pytest.raises(ForeignSessionError):
                            await anext(stream)

    asyncio.run(scenario())


def test_without_certificates_all_callers_are_one_peer(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(replace(config(tiny_bundle, "device"), max_sessions=1)) as device:
            for _ in range(2):
                async with AsyncRelayClient(address(device)) as client:
                    stream = client.generate(PROMPT, session="s", keep=True, policy=FixedExit(1), max_tokens=1)
                    assert len([token async for token in stream]) == 1

    asyncio.run(scenario())
