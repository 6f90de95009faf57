"""`make up`: the tiers of a bundle as processes on this machine, until Ctrl-C."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from deploy.local import chain
from family.cli import run
from family.manifest import load_manifest
from relay.settings.kinds import DEFAULT_ADDRESS, address


async def up(bundle: Path, listen: str) -> None:
    """Start the chain, say where it is, and wait for Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with chain(bundle, load_manifest(bundle), listen) as entry:
        sys.stdout.write(f"the relay answers at {entry}; in another terminal: relay describe --node {entry}\n")
        sys.stdout.write("Ctrl-C stops it\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m deploy.up", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="what export-family wrote")
    parser.add_argument(
        "--listen", type=address, default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="of the entry node"
    )
    arguments = parser.parse_args()
    run(lambda: asyncio.run(up(arguments.bundle, arguments.listen)), name="make up", extra="dev")


if __name__ == "__main__":
    main()
