"""Nodes as processes: what is told of one that does not start, and that none waits for a reader."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy import local
from deploy.local import NodeFailedError, node
from relay.client.sync import RelayClient


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """What runs in place of a node, whatever its arguments."""
    program = folder / "node"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


async def address(folder: Path) -> str:
    async with node(folder, "edge", None) as there:
        return there


def test_a_node_that_is_never_ready_is_named_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path, "trap '' TERM; while true; do sleep 0.1; done")
    monkeypatch.setattr(local, "READY_S", 0.3)
    with pytest.raises(NodeFailedError, match="the edge node was not ready after 0 s"):
        asyncio.run(address(tmp_path))
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


def test_a_node_that_fails_is_told_of_in_its_own_last_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path, "echo starting >&2; echo 'error: the port is in use' >&2; exit 2")
    with pytest.raises(NodeFailedError, match=r"^the port is in use$"):
        asyncio.run(address(tmp_path))
    pretend(monkeypatch, tmp_path, "exit 2")
    with pytest.raises(NodeFailedError, match="the edge node did not start"):
        asyncio.run(address(tmp_path))


def test_a_node_may_log_more_than_a_pipe_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = json.dumps({"address": "here:1"})
    pretend(monkeypatch, tmp_path, f"head -c 300000 /dev/zero >&2; echo '{ready}'; exec sleep 60")
    assert asyncio.run(address(tmp_path)) == "here:1"


def test_a_chain_stays_up_where_it_was_told_until_it_is_stopped(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "deploy.up", "--bundle", str(tiny_bundle), "--listen", "localhost:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    entry = re.search(r"answers at (\S+);", process.stdout.readline())
    assert entry is not None
    with RelayClient(entry[1]) as client:
        assert [node.tier for node in client.describe()] == ["device", "edge", "cloud"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
