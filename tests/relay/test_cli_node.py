"""What `relay-node` and `relay health` say to service managers and health checks."""

import signal
import socket
from pathlib import Path

import pytest

from tests.relay.processes import free_port, node_process, run
from tests.relay.servers import HOST


@pytest.mark.parametrize("abstract", [False, True])
def test_a_node_tells_the_service_manager_that_it_is_ready(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(60.0)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        with node_process(tiny_bundle, "cloud"):
            assert manager.recv(64) == b"READY=1"


def test_health_is_of_one_node_whatever_its_upstream_does(tiny_bundle: Path) -> None:
    nobody = f"{HOST}:{free_port()}"
    with node_process(tiny_bundle, "edge", "--upstream", nobody) as edge:
        done = run("relay", "health", "--node", edge.address)
        assert (done.returncode, done.stdout, done.stderr) == (0, "serving\n", "")
        edge.signal(signal.SIGTERM)
        assert edge.wait() == 0
        done = run("relay", "health", "--node", edge.address)
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            done.stderr == f"error: no relay node answers at {edge.address}; start one there, or correct the address\n"
        )


def test_a_node_whose_settings_are_all_in_a_file_starts(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f'[node]\ntier = "lost"\nbundle = "{tiny_bundle}"\nlisten = "{HOST}:0"\n', encoding="utf-8")
    done = run("relay-node", "--config", str(file))
    assert done.returncode == 2
    assert "the bundle has no tier 'lost'; it has device" in done.stderr


def test_a_node_writes_nothing_at_home_and_tells_nobody_of_itself(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):  # the first two silence ONNX Runtime
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with node_process(tiny_bundle, "cloud"):
        assert list(tmp_path.iterdir()) == []
