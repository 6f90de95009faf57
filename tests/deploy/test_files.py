"""The files of deploy/ are what their tools take, and their command lines make a relay."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from relay.client.sync import RelayClient
from relay.policy import FixedExit
from tests.conftest import ROOT
from tests.deploy.files import DEPLOY, TIERS, UNIT, Image, blocks, compose, example, services, unit
from tests.relay.certificates import Authority
from tests.relay.processes import PATIENCE_S, environment, free_port, run, until
from tests.relay.servers import HOST

BIN = Path(sys.executable).parent
TOOL_S = 120.0


def tool(*arguments: str, cwd: Path | None = None, **variables: str) -> str:
    """What a tool says, which is content with what it was given."""
    done = subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, timeout=TOOL_S, check=False, env=environment(**variables)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def ports() -> dict[str, str]:
    """Addresses on this machine for the three that the files name."""
    return {tier: f"{HOST}:{free_port()}" for tier in TIERS}


@contextmanager
def started(command: list[str], variables: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this environment's commands; it must end well when it is told to."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BIN / Path(command[0]).name), *command[1:]], env=environment(**variables), stdout=output, stderr=output
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def assert_relays(entry: str, **files: Path) -> None:
    """One token at each exit, decided where it should be."""
    with RelayClient(entry, **files) as client:
        for exit_, tier in enumerate(TIERS, 1):
            (token,) = client.generate("The tide", policy=FixedExit(exit_), max_tokens=1)
            assert (token.exit, token.tier) == (exit_, tier)


# Containers.


def test_the_image_has_the_node_extra_only_and_no_root() -> None:
    image = Image()
    installs = [rest for name, rest in image.instructions if name == "RUN" and "install" in rest]
    assert len(installs) == 1 and installs[0].endswith("'.[node]'")
    assert image.final["USER"] == "65532:65532"
    assert {name for name, rest in image.instructions if name == "COPY" and "--from=build" in rest} == {"COPY"}


def test_the_image_is_made_of_what_is_in_the_repository_and_nothing_else_is_sent() -> None:
    copied = Image().copied()
    assert all((ROOT / source).exists() for source in copied)
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in ignore if line.startswith("!")]
    assert sorted(sent) == sorted(copied)
    assert "*" in ignore


def test_the_command_lines_of_the_containers_make_a_relay(
    tiny_bundle: Path, tmp_path: Path, ports: dict[str, str]
) -> None:
    image = Image()
    with ExitStack() as stack:
        for tier, service in services(BUNDLE=str(tiny_bundle)).items():
            assert service["profiles"] == [tier]
            (volume,) = service["volumes"]
            assert volume["read_only"] and volume["source"] == str(tiny_bundle)
            inside = {
                volume["target"]: volume["source"],
                "0.0.0.0:7001": ports[tier],  # every container has a network of its own; these share one
                **{f"{other}:7001": ports[other] for other in TIERS},
            }
            command = [inside.get(word, word) for word in [*image.entrypoint, *service["command"]]]
            variables = {name: inside.get(value, value) for name, value in image.environment.items() if name != "PATH"}
            stack.enter_context(started(command, variables, tmp_path / tier))
        for tier in TIERS:
            until(lambda tier=tier: run(*image.healthcheck, RELAY_NODE=ports[tier]).returncode == 0)  # type: ignore[misc]
        assert_relays(ports["device"])


def test_the_ports_of_the_containers_are_those_that_the_next_machine_is_told(tmp_path: Path) -> None:
    variables = example()
    three = services(**variables)
    assert three["device"]["command"][-1] == variables["EDGE"]
    assert three["edge"]["command"][-1] == variables["CLOUD"]
    published = {tier: service["ports"][0].removesuffix(":7001") for tier, service in three.items()}
    assert published["cloud"] == variables["CLOUD"].partition(":")[2]
    assert published["edge"] == variables["EDGE"].partition(":")[2]
    assert published["device"] == "127.0.0.1:7001"
    assert Image().environment["RELAY_LISTEN"] == "0.0.0.0:7001"


@pytest.mark.parametrize("profiles", [*((tier,) for tier in TIERS), TIERS], ids=" ".join)
def test_compose_takes_the_file(tmp_path: Path, profiles: tuple[str, ...]) -> None:
    command = compose()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    copy = shutil.copytree(DEPLOY, tmp_path / "deploy")
    (copy / ".env").write_text("\n".join(f"{name}={value}" for name, value in example().items()), encoding="utf-8")
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    said = tool(*command, "--file", str(copy / "compose.yaml"), *chosen, "config")
    read = yaml.safe_load(said)["services"]
    assert set(read) >= set(profiles)  # docker-compose 1 shows the others as well
    assert all(service["volumes"][0]["source"] == "/srv/familial/bundle" for service in read.values())
    if "device" in read:
        assert read["device"]["command"] == ["--tier", "device", "--upstream", "edge.example:7002"]


def test_compose_asks_for_the_bundle() -> None:
    command = compose()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    done = subprocess.run(
        [*command, "--file", str(DEPLOY / "compose.yaml"), "--profile", "cloud", "config"],
        capture_output=True,
        text=True,
        timeout=TOOL_S,
        check=False,
        env=environment(BUNDLE=""),
    )
    assert done.returncode != 0
    assert "set BUNDLE to the absolute path of the bundle" in done.stderr


def certificates(folder: Path) -> Path:
    """A folder with this machine's ca.pem, cert.pem and key.pem, made as the README says."""
    made = Authority(folder / "made").node("machine")
    for file, name in ((made.ca, "ca.pem"), (made.cert, "cert.pem"), (made.key, "key.pem")):
        shutil.copy(file, folder / name)
    return folder


def assert_relays_with_certificates(variables: Mapping[str, str], bundle: Path, folder: Path) -> None:
    """Three nodes with these variables take one another's certificates, and nobody who has none."""
    entry = ""
    with ExitStack() as stack:
        for tier in reversed(TIERS):
            upstream = ["--upstream", entry] if entry else []
            entry = f"{HOST}:{free_port()}"
            command = ["relay-node", "--tier", tier, "--bundle", str(bundle), "--listen", entry, *upstream]
            stack.enter_context(started(command, variables, folder / tier))
            until(lambda entry=entry: run("relay", "health", RELAY_NODE=entry, **variables).returncode == 0)  # type: ignore[misc]
        files = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key")}
        assert_relays(entry, **files)
        assert "hangs up at once" in run("relay", "describe", "--node", entry).stderr


def test_with_the_second_file_the_containers_speak_mutual_tls(tiny_bundle: Path, tmp_path: Path) -> None:
    certificates(tmp_path)
    three = services("tls.yaml", CERTIFICATES=str(tmp_path))
    assert set(three) == set(TIERS) and len({str(service) for service in three.values()}) == 1
    (volume,) = three["cloud"]["volumes"]
    assert volume["read_only"] and volume["source"] == str(tmp_path)
    written = three["cloud"]["environment"]
    variables = {name: value.replace(volume["target"], str(tmp_path)) for name, value in written.items()}
    assert_relays_with_certificates(variables, tiny_bundle, tmp_path)


# systemd.


@pytest.mark.parametrize("tier", TIERS)
def test_systemd_takes_the_unit(tmp_path: Path, tier: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    instance = tmp_path / f"relay-node@{tier}.service"
    instance.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/familial/bin", str(BIN)), encoding="utf-8")
    assert tool("systemd-analyze", "verify", "--man=no", str(instance)) == ""


def test_the_unit_is_exposed_as_little_as_a_network_service_may_be(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / "relay-node@edge.service"
    shutil.copy(UNIT, copy)
    tool("systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy))  # tenths; 100 is the worst


def test_the_command_lines_of_the_units_make_a_relay(tiny_bundle: Path, tmp_path: Path, ports: dict[str, str]) -> None:
    written = {
        "/srv/familial/bundle": str(tiny_bundle),
        "0.0.0.0:7003": ports["cloud"],
        "0.0.0.0:7002": ports["edge"],
        "localhost:7001": ports["device"],
        "cloud.example:7003": ports["cloud"],
        "edge.example:7002": ports["edge"],
    }
    for tier in TIERS:
        text = (DEPLOY / "systemd" / f"{tier}.toml").read_text(encoding="utf-8")
        for theirs, ours in written.items():
            text = text.replace(f'"{theirs}"', f'"{ours}"')
        (tmp_path / f"{tier}.toml").write_text(text, encoding="utf-8")
    with ExitStack() as stack:
        for tier in TIERS:
            service = unit(tier)["Service"]
            assert service["Type"] == "notify"
            assert service["EnvironmentFile"] == f"-/etc/familial/{tier}.env"
            command = shlex.split(service["ExecStart"].replace("/etc/familial", str(tmp_path)))
            manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            manager.bind(str(tmp_path / f"{tier}.socket"))
            manager.settimeout(PATIENCE_S)
            variables = {"NOTIFY_SOCKET": str(tmp_path / f"{tier}.socket")}
            stack.enter_context(started(command, variables, tmp_path / tier))
            assert manager.recv(64) == b"READY=1"
        assert_relays(ports["device"])


def test_with_the_drop_in_the_units_speak_mutual_tls(tiny_bundle: Path, tmp_path: Path) -> None:
    certificates(tmp_path)
    lines = [line.partition("=") for line in (DEPLOY / "systemd/tls.conf").read_text(encoding="utf-8").splitlines()]
    loaded = dict(value.split(":") for name, _, value in lines if name == "LoadCredential")
    assert loaded == {name: f"/etc/familial/{name}" for name in ("ca.pem", "cert.pem", "key.pem")}
    pairs = [pair.split("=") for name, _, value in lines if name == "Environment" for pair in value.split()]
    node = {name: value.replace("%d", str(tmp_path)) for name, value in pairs}
    client = {f"RELAY_{name.upper()}": str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    assert_relays_with_certificates({**node, **client}, tiny_bundle, tmp_path)


@pytest.mark.parametrize("tier", TIERS)
def test_systemd_takes_the_drop_in(tmp_path: Path, tier: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    instance = tmp_path / f"relay-node@{tier}.service"
    instance.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/familial/bin", str(BIN)), encoding="utf-8")
    drop_in = tmp_path / f"{instance.name}.d"
    drop_in.mkdir()
    shutil.copy(DEPLOY / "systemd" / "tls.conf", drop_in)
    assert tool("systemd-analyze", "verify", "--man=no", str(instance)) == ""


def test_who_stops_a_node_waits_longer_than_its_texts_may_take() -> None:
    said = run("relay-node", "--print-config", "--config", os.devnull).stdout
    (drain,) = [line.split()[2] for line in said.splitlines() if line.startswith("drain = ")]
    assert float(unit("edge")["Service"]["TimeoutStopSec"]) > float(drain)
    assert all(float(service["stop_grace_period"].removesuffix("s")) > float(drain) for service in services().values())


# The README's commands, from its first to its last.


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


INSTALLS = ("python3 -m venv", "/opt/familial/bin/pip")
"""Run by the slow test only."""


def test_the_commands_of_the_readme_run(tiny_bundle: Path, tmp_path: Path, ports: dict[str, str]) -> None:
    with ExitStack() as stack:
        for index, tier in enumerate(TIERS):
            upstream = ["--upstream", ports[TIERS[index + 1]]] if index < 2 else []
            given = ["--tier", tier, "--bundle", str(tiny_bundle), "--listen", ports[tier], *upstream]
            stack.enter_context(started(["relay-node", *given], {}, tmp_path / tier))
        for address in ports.values():
            until(lambda address=address: run("relay", "health", "--node", address).returncode == 0)  # type: ignore[misc]
        for line in commands():
            if not line.startswith(INSTALLS):
                follow(line, tiny_bundle, tmp_path, ports["device"])
    assert (tmp_path / "srv/familial/bundle/manifest.json").is_file() or shutil.which("rsync") is None


def follow(line: str, bundle: Path, root: Path, entry: str) -> None:
    """Do what a line says, below `root` in place of `/`; what no test machine has is checked as far as it goes."""
    here = line.replace("/opt/familial/bin", str(BIN)).replace("/etc/", f"{root}/etc/").replace("/srv/", f"{root}/srv/")
    words = shlex.split(here)
    match words:
        case ["make", target]:
            assert f"--out {Path(target).parent}\n" in tool("make", "--dry-run", "--always-make", target, cwd=ROOT)
        case ["rsync", option, _, destination]:
            if shutil.which("rsync"):
                there = destination.removeprefix("MACHINE:")
                Path(there).mkdir(parents=True)
                tool("rsync", option, f"{bundle}/", there)
        case ["install" | "deploy/certificates.sh", *_]:
            tool(*words, cwd=ROOT)
        case [program, *_] if program.endswith("/relay-node"):
            assert 'tier = "cloud"' in tool(*words)
        case ["systemctl", "daemon-reload"]:
            pass
        case ["systemctl", "enable", "--now", instance]:
            name, _, tier = instance.partition("@")
            assert (root / "etc/systemd/system" / f"{name}@.service").is_file()
            assert (root / "etc/familial" / f"{tier}.toml").is_file()
            assert unit(tier)["Install"]["WantedBy"] == "multi-user.target"
        case ["docker", "compose", *options]:
            files_and_profiles = options[: options.index("up")]
            if command := compose():
                tool(
                    *command, *files_and_profiles, "config", cwd=ROOT, BUNDLE=str(bundle), CERTIFICATES="/etc/familial"
                )
        case ["docker", "build", "--file", file, "--tag", tag, "."]:
            assert (ROOT / file).is_file() and {service["image"] for service in services().values()} == {tag}
        case ["docker", "run", *options]:
            arguments = options[options.index("familial-node") + 1 :]
            tool(str(BIN / "relay-node"), *arguments, "--print-config", RELAY_BUNDLE=str(bundle))
            assert options[options.index("--publish") + 1].endswith(":7001")
        case ["relay", *_]:
            assert tool(str(BIN / "relay"), *words[1:], RELAY_NODE=entry)
        case _:
            raise AssertionError(f"no test runs this line of the README: {line}")


@pytest.mark.slow
def test_the_install_of_the_readme_makes_a_node_without_pytorch(tmp_path: Path) -> None:
    for line in commands():
        if line.startswith(INSTALLS):
            tool(*shlex.split(line.replace("/opt/familial", str(tmp_path / "opt"))), cwd=ROOT)
    assert "--tier" in tool(str(tmp_path / "opt/bin/relay-node"), "--help", cwd=tmp_path)
    assert not list(tmp_path.glob("opt/lib/python3*/site-packages/torch"))
