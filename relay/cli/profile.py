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
from family.manifest import Manifest, load_manifest
from family.profile import (
    PROFILE_VERSION,
    BundleProfile,
    LinkProfile,
    MachineFacts,
    Profile,
    save_profile,
)
from relay.cli.common import QUIET_GRPC
from relay.settings.kinds import address, threads

BUSY = 0.5
"""Processes that ran in the mean over the last minute."""


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
    for name, what in (("ca", "authority of its certificate"), ("cert", "certificate to show it"), ("key", "its key")):
        parser.add_argument(f"--upstream-{name}", type=Path, metavar="FILE", help=f"as of relay-node: {what}")
    return parser


def _profile(given: argparse.Namespace) -> None:
    count = given.threads or os.cpu_count() or 1
    _warn_if_busy()
    started = time.perf_counter()
    manifests = [load_manifest(path) for path in given.bundle]
    _check(given.bundle, manifests)
    upstream = _upstream(given) if given.upstream else None
    bundles = tuple(_bundle(path, manifest, count) for path, manifest in zip(given.bundle, manifests, strict=True))
    took_s = round(time.perf_counter() - started, 1)
    save_profile(Profile(PROFILE_VERSION, _machine(), count, took_s, bundles, upstream), given.out)
    sys.stdout.write(f"{given.out}: {', '.join(b.precision for b in bundles)} in {took_s:.0f} s\n")


def _warn_if_busy() -> None:
    """What else runs makes all times longer, and some more than others."""
    load = os.getloadavg()[0]
    if load > BUSY:
        sys.stderr.write(
            f"warning: this machine is busy (load {load:.1f} over the last minute); a profile says what it does when "
            "nothing else runs\n"
        )


def _check(paths: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    """Raise `ConfigurationError` for bundles that no profile can hold together."""
    from relay.errors import ConfigurationError

    if len({manifest.family_fingerprint for manifest in manifests}) > 1:
        raise ConfigurationError(f"{', '.join(map(str, paths))}: of different families; write a profile of each")
    if len({manifest.precision for manifest in manifests}) < len(manifests):
        raise ConfigurationError(f"{', '.join(map(str, paths))}: two of one precision; leave one out")


def _upstream(given: argparse.Namespace) -> LinkProfile:
    from relay.profile.upstream import measure_upstream
    from relay.tls import client_credentials

    credentials = client_credentials(given.upstream_ca, given.upstream_cert, given.upstream_key, "upstream-")
    return asyncio.run(measure_upstream(given.bundle[0], given.upstream, credentials))


def _bundle(path: Path, manifest: Manifest, count: int) -> BundleProfile:
    from relay.profile.forwards import measure_forwards
    from relay.profile.texts import measure_texts

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
