"""`relay-node profile`: measure this machine with a bundle, for the planner."""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from family.cli import run
from family.manifest import load_manifest
from family.profile import (
    PROFILE_VERSION,
    BundleProfile,
    MachineFacts,
    Profile,
    save_profile,
)
from relay.cli.common import QUIET_GRPC
from relay.settings.kinds import address, threads


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `relay-node profile`."""
    given = _parser().parse_args(arguments)
    os.environ.update(QUIET_GRPC | os.environ)
    run(lambda: _profile(given), name="relay-node profile", extra="node")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="relay-node profile",
        description="Measure this machine, in less than a minute a bundle: the time of each segment and exit against "
        "rows, sessions and context, memory, what a node takes beside them, and the way to its upstream. Let nothing "
        "else run meanwhile.",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="what export-family wrote; one of a precision",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the profile to write (JSON)")
    parser.add_argument("--threads", type=threads, metavar="N", help="as of relay-node; by default one for each core")
    parser.add_argument(
        "--upstream",
        type=address,
        metavar="HOST:PORT",
        help="also measure the way to this node of the first bundle",
    )
    return parser


def _profile(given: argparse.Namespace) -> None:
    count = given.threads or os.cpu_count() or 1
    started = time.perf_counter()
    bundles = tuple(_bundle(path, count) for path in given.bundle)
    upstream = None
    if given.upstream:
        from relay.profile.upstream import measure_upstream

        upstream = asyncio.run(measure_upstream(given.bundle[0], given.upstream))
    profile = Profile(PROFILE_VERSION, _machine(), count, round(time.perf_counter() - started, 1), bundles, upstream)
    save_profile(profile, given.out)
    sys.stdout.write(f"{given.out}: {', '.join(b.precision for b in bundles)} in {profile.took_s:.0f} s\n")


def _bundle(path: Path, count: int) -> BundleProfile:
    from relay.profile.forwards import measure_forwards
    from relay.profile.texts import measure_texts

    manifest = load_manifest(path)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        graphs, memory = pool.submit(measure_forwards, path, count).result()
    texts, nodes = asyncio.run(measure_texts(path, manifest, count))
    return BundleProfile(
        manifest.spec,
        manifest.family_fingerprint,
        manifest.export_fingerprint,
        manifest.precision,
        graphs,
        memory,
        texts,
        nodes,
    )


def _machine() -> MachineFacts:
    return MachineFacts(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=platform.platform(),
        onnxruntime=version("onnxruntime"),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()
