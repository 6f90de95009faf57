"""A node starts from exactly what it needs, and from nothing that is not as it was written."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from family.errors import BundleError, FamilialError, ManifestError
from family.manifest import CHAT_TEMPLATE_NAME, MANIFEST_NAME, SHARED_DATA_NAME, TOKENIZER_NAME
from relay.errors import ConfigurationError
from relay.node.config import NodeConfig
from relay.node.serve import NodeServer
from relay.policy import FixedExit
from tests.relay.bundles import copied, files_of, with_field
from tests.relay.processes import PATIENCE_S, environment, one_line_error, run
from tests.relay.servers import HOST, config, running, text


def refusal(config: NodeConfig) -> FamilialError:
    """Why the node does not start; its port is free again afterwards."""

    async def scenario() -> FamilialError:
        server = NodeServer(config)
        with pytest.raises(FamilialError) as raised:
            await server.start()
        if server.port:
            with socket.create_server((HOST, server.port)):
                pass
        return raised.value

    return asyncio.run(scenario())


# Files.


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = [
    (remove, "missing; copy the bundle again or export it anew"),
    (truncate, "bytes where the manifest says .*; copy the bundle again"),
    (alter, "its content was altered .*; copy it again"),
]


@pytest.mark.parametrize("name", ["segment-1.onnx", "exit-1.data", SHARED_DATA_NAME, TOKENIZER_NAME])
@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_a_damaged_file_is_named_and_the_node_does_not_start(
    name: str, damage: Callable[[Path], None], says: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = copied(tiny_bundle, tmp_path)
    damage(bundle / name)
    error = refusal(config(bundle, "device"))
    assert isinstance(error, BundleError)
    assert str(error).startswith(f"{bundle / name}: ")
    with pytest.raises(BundleError, match=says):
        raise error


@pytest.mark.parametrize(("damage", "says"), DAMAGE)
def test_the_command_says_it_in_one_line(
    damage: Callable[[Path], None], says: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = copied(tiny_bundle, tmp_path)
    damage(bundle / "segment-2.data")
    line = one_line_error(run("relay-node", "--tier", "edge", "--bundle", str(bundle), "--listen", f"{HOST}:0"))
    assert line.startswith(f"error: {bundle / 'segment-2.data'}: ")
    with pytest.raises(BundleError, match=says):
        raise BundleError(line)


def test_a_graph_that_onnx_runtime_cannot_open_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = copied(tiny_bundle, tmp_path)
    (bundle / "segment-1.onnx").write_bytes(b"no graph")
    monkeypatch.setattr("relay.engine.engine.verify_files", lambda *_: None)  # as if it had been exported so
    error = refusal(config(bundle, "device"))
    assert isinstance(error, BundleError)
    assert str(error).startswith(f"{bundle / 'segment-1.onnx'}: onnxruntime {onnxruntime.__version__} cannot open it")
    assert "\n" not in str(error)


# The manifest.


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema_version",), 99, "reads version 3, the bundle is of 99; export it again with this release"),
        (("schema_version",), "1", "schema_version: expected an integer"),
        (("spec", "d_model"), "64", "spec.d_model: expected an integer, got a string"),
        (("spec", "exits", 0, "layer"), 2.5, r"spec.exits\[0\].layer: expected an integer"),
        (("tiers",), ["device"], "tiers: expected an object, got a list"),
        (("files", "segment-1.onnx", "bytes"), None, "files.segment-1.onnx.bytes: expected an integer, got null"),
        (("surprise",), 1, "surprise: unknown field"),
        (("graphs",), [], "graphs: segment-1 is missing"),
    ],
)
def test_a_manifest_that_is_not_understood_names_the_field(
    path: tuple[str | int, ...], value: object, says: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = with_field(tiny_bundle, tmp_path, path, value)
    with pytest.raises(ManifestError, match=says) as raised:
        raise refusal(config(bundle, "device"))
    assert str(raised.value).startswith(f"{bundle / MANIFEST_NAME}: ")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe"])
def test_a_directory_that_is_no_bundle_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST_NAME).write_bytes(content)
    error = refusal(config(tmp_path, "device"))
    assert isinstance(error, ManifestError)
    assert str(error).startswith(f"{tmp_path / MANIFEST_NAME}: ")
    assert "export" in str(error)


def test_a_file_or_nothing_in_the_bundles_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "nothing"):
        assert "give the directory that export-family wrote" in str(refusal(config(path, "device")))


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    line = one_line_error(run("relay-node", "--tier", "edge", "--bundle", str(tmp_path)))
    assert str(tmp_path / MANIFEST_NAME) in line


# The settings.


def test_an_unknown_tier_is_answered_with_the_tiers_there_are(tiny_bundle: Path) -> None:
    says = r"no tier 'gateway'; it has device \(segments 1-1\), edge .*, cloud .* or --segments A-B"
    with pytest.raises(ConfigurationError, match=says):
        raise refusal(config(tiny_bundle, "gateway"))


@pytest.mark.parametrize("segments", [(2, 3, 4, 5, 6, 7, 8, 9), (0, 1), (), (3, 2)])
def test_segments_that_the_family_lacks_are_refused(segments: tuple[int, ...], tiny_bundle: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--segments: expected consecutive segments of 1\.\.3, got"):
        raise refusal(config(tiny_bundle, "edge", segments=segments))


def test_a_port_in_use_is_refused(tiny_bundle: Path) -> None:
    with (
        socket.create_server((HOST, 0)) as taken,
        pytest.raises(ConfigurationError, match=r"port is in use.*; choose another with --listen HOST:PORT"),
    ):
        asyncio.run(NodeServer(config(tiny_bundle, "device", listen=f"{HOST}:{taken.getsockname()[1]}")).start())


def test_two_nodes_never_share_a_port(tiny_bundle: Path) -> None:
    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as first:
            with pytest.raises(ConfigurationError, match="port is in use"):
                await NodeServer(config(tiny_bundle, "device", listen=f"{HOST}:{first.port}")).start()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--segments", "2-9"], "expected consecutive segments of 1..3"),
        (["--tier", "gateway"], "no tier 'gateway'"),
        (["--listen", "192.0.2.1:7001"], "cannot listen on 192.0.2.1:7001"),
        (["--listen", "no-such-host.invalid:7001"], "cannot listen on no-such-host.invalid:7001"),
        (["--bundle", "/"], "give the directory that export-family wrote"),
    ],
)
def test_the_command_refuses_settings_in_one_line(arguments: list[str], says: str, tiny_bundle: Path) -> None:
    given = ["--tier", "edge", "--bundle", str(tiny_bundle), "--listen", f"{HOST}:0", *arguments]
    assert says in one_line_error(run("relay-node", *given))


def test_the_command_refuses_a_port_in_use_in_one_line(tiny_bundle: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        listen = f"{HOST}:{taken.getsockname()[1]}"
        line = one_line_error(run("relay-node", "--tier", "edge", "--bundle", str(tiny_bundle), "--listen", listen))
    assert f"cannot listen on {listen}: the port is in use" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--listen", "7001"], "expected HOST:PORT, got '7001'"),
        (["--listen", "localhost:"], "expected HOST:PORT"),
        (["--listen", "localhost:65536"], "expected HOST:PORT"),
        (["--upstream", "edge"], "expected HOST:PORT, got 'edge'"),
        (["--segments", "two"], "expected A or A-B"),
        (["--threads", "0"], "expected a positive whole number"),
        (["--max-sessions", "-1"], "expected a positive whole number"),
        (["--grace", "nan"], "expected a positive number of seconds"),
        (["--drain", "soon"], "expected a positive number of seconds"),
    ],
)
def test_a_setting_of_the_wrong_form_is_refused_by_its_name(arguments: list[str], says: str) -> None:
    done = run("relay-node", "--tier", "edge", "--bundle", "bundle", *arguments)
    assert done.returncode == 2
    assert f"error: argument {arguments[0]}: {says}" in done.stderr.splitlines()[-1]


# Only what it needs.


def test_a_device_starts_without_the_files_of_segments_2_and_3(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copied(tiny_bundle, tmp_path)
    needed = files_of(bundle, {1})
    for name in files_of(bundle, {2, 3}) - needed:
        (bundle / name).unlink()
    left = {path.name for path in bundle.iterdir()}
    assert needed | {MANIFEST_NAME, TOKENIZER_NAME} <= left
    assert not any(name.startswith(("segment-2", "segment-3", "exit-2", "exit-3")) for name in left)

    async def scenario() -> None:
        async with running(config(tiny_bundle, "device")) as whole, running(config(bundle, "device")) as part:
            options = {"policy": FixedExit(1), "max_tokens": 5, "ignore_stop": True}
            assert [t.id for t in await text(part, "tea", **options)] == [
                t.id for t in await text(whole, "tea", **options)
            ]

    asyncio.run(scenario())


def test_an_edge_starts_with_its_own_graphs_and_no_tokenizer(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copied(tiny_bundle, tmp_path)
    for path in bundle.iterdir():
        if path.name not in files_of(bundle, {2}) | {MANIFEST_NAME}:
            path.unlink()

    async def scenario() -> None:
        async with (
            running(config(bundle, "edge")) as edge,
            running(config(tiny_bundle, "device", edge)) as device,
        ):
            tokens = await text(device, [5], policy=FixedExit(2), max_tokens=3, ignore_stop=True)
            assert [t.tier for t in tokens] == ["edge"] * 3

    asyncio.run(scenario())


OBSERVED = """
import asyncio, json, os, sys
from pathlib import Path

bundle, tier = Path(sys.argv[1]).resolve(), sys.argv[2]
seen = set()

def note(path):
    path = Path(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else None
    if path is not None and path.is_absolute() and path.parent == bundle:
        seen.add(path.name)

sys.addaudithook(lambda event, args: note(args[0]) if event == "open" else None)

from relay.node.config import NodeConfig
from relay.node.serve import NodeServer

async def observe():
    server = NodeServer(NodeConfig(tier=tier, bundle=bundle, listen="127.0.0.1:0", threads=1, drain_s=0.0))
    await server.start()
    for line in Path("/proc/self/maps").read_text().splitlines():
        note(line.split(maxsplit=5)[-1])
    for link in Path("/proc/self/fd").iterdir():
        try:
            note(os.readlink(link))
        except OSError:
            continue
    await server.stop()

asyncio.run(observe())
print(json.dumps(sorted(seen)))
"""
"""Python's opens by audit hook; what ONNX Runtime holds, mapped or open, by /proc."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("tier", "segment"), [("device", 1), ("edge", 2)])
def test_a_node_opens_only_its_tiers_files(tier: str, segment: int, tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OBSERVED, str(tiny_bundle), tier],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    own = files_of(tiny_bundle, {segment}) | {MANIFEST_NAME}
    if segment == 1:
        own |= {TOKENIZER_NAME, CHAT_TEMPLATE_NAME}
    opened = set(json.loads(done.stdout))
    assert opened - {TOKENIZER_NAME} == own - {TOKENIZER_NAME}
    assert segment == 1 or TOKENIZER_NAME not in opened
