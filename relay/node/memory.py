"""Memory for keys and values: how much a node may promise to its sessions."""

import os
from contextlib import suppress
from pathlib import Path

from family.manifest import Manifest
from relay.engine.pool import position_bytes
from relay.errors import ConfigurationError

_SHARE = 2
"""A node that is not told how much takes one in so many bytes of the machine's memory."""
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What a container may use, in Linux' two ways to say so."""


def room(manifest: Manifest, segments: tuple[int, ...], kv_memory: int | None) -> int:
    """Positions whose keys and values fit into `kv_memory` bytes on a node of these segments.

    Raises `ConfigurationError` unless those of one whole context do.
    """
    graphs = [manifest.graph(kind, index) for index in segments for kind in ("segment", "exit")]
    each = position_bytes(sum(graph.kv_layers for graph in graphs), manifest.spec)
    memory = kv_memory or machine_memory() // _SHARE
    if memory < each * manifest.spec.context:
        raise ConfigurationError(
            f"--kv-memory: the keys and values of one context of {manifest.spec.context} take "
            f"{each * manifest.spec.context / 2**20:.0f} MiB on this node; give more than {memory / 2**20:.0f} MiB"
        )
    return memory // each


def machine_memory() -> int:
    """Bytes of memory that this process may use."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            found.append(int(limit.read_text()))
    return min(found)
