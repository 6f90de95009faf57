"""Which Python runs a rival: one that is named, or a virtual environment that is made here when asked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.child import PeerError


def variable(peer: Peer) -> str:
    """The environment variable that names a rival's Python, such as `FAMILIAL_PEER_LLAMA_CPP`."""
    return "FAMILIAL_PEER_" + peer.name.upper().replace("-", "_").replace(".", "_")


def python_of(peer: Peer, named: Mapping[str, Path], cache: Path, make: bool) -> Path:
    """The Python that has the rival's engine: by option, by variable, ours if that suffices, or the cache's.

    Raises `PeerError` if there is none and `make` is false, or if it cannot be made.
    """
    given = named.get(peer.name) or os.environ.get(variable(peer))
    if given:
        if not Path(given).is_file():
            raise PeerError(f"{peer.name}: {given}: no such file; give a Python that has its packages")
        return Path(given)
    if not peer.requirements:
        return Path(sys.executable)
    folder = cache / "environments" / peer.name
    python = folder / "bin" / "python"
    if (folder / "ready").is_file():
        return python
    if not make:
        raise PeerError(
            f"{peer.name}: no environment has its packages; run again with --make, which installs them into {folder}, "
            f"or name a Python that has them: --python {peer.name}=PATH or {variable(peer)}"
        )
    _make(peer, folder)
    return python


def _make(peer: Peer, folder: Path) -> None:
    """A virtual environment with the rival's packages; it counts once `ready` is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    steps = [[sys.executable, "-m", "venv", str(folder)]]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps += [[*pip, *arguments] for arguments in peer.requirements]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False, env={**os.environ, **peer.build})
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise PeerError(
                f"{peer.name}: its environment cannot be made: {said[-1] if said else 'pip failed'}; check the network "
                f"and what its packages need to build (a C++ compiler, cmake), or name a Python that has them with "
                f"--python {peer.name}=PATH"
            )
    (folder / "ready").touch()
