"""`relay-node`: serve one tier's part of a bundle."""

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import positive, run, seconds
from relay.cli.common import QUIET_GRPC, address, name, segments

if TYPE_CHECKING:
    from relay.node.serve import NodeServer


def main() -> None:
    """Entry point of the `relay-node` command."""
    arguments = _parser().parse_args()
    os.environ.update(QUIET_GRPC | os.environ)
    run(lambda: _serve(arguments), name="relay-node", extra="node")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="relay-node",
        description="Serve one tier of a family: its trunk segments and the exits on them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--tier",
        type=name,
        required=True,
        help="name of the tier; the bundle's manifest says which segments it has",
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR", help="what export-family wrote")
    parser.add_argument(
        "--listen", type=address, default="localhost:7001", metavar="HOST:PORT", help="port 0: any free one"
    )
    parser.add_argument("--upstream", type=address, metavar="HOST:PORT", help="node that serves the next segments")
    parser.add_argument("--segments", type=segments, metavar="A-B", help="serve these instead of the tier's own")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of a forward; by default one per core")
    parser.add_argument("--max-sessions", type=positive, default=64, metavar="N", help="sessions held at a time")
    parser.add_argument(
        "--grace", type=seconds, default=30.0, metavar="S", help="a session outlives a broken stream so long"
    )
    parser.add_argument(
        "--drain", type=seconds, default=30.0, metavar="S", help="running requests may end after SIGTERM"
    )
    parser.add_argument("--json", action="store_true", help="say that the node is ready as one JSON object")
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    from relay.node.config import NodeConfig
    from relay.node.serve import serve

    config = NodeConfig(
        tier=arguments.tier,
        bundle=arguments.bundle,
        listen=arguments.listen,
        upstream=arguments.upstream,
        segments=arguments.segments,
        threads=arguments.threads or 0,
        max_sessions=arguments.max_sessions,
        grace_s=arguments.grace,
        drain_s=arguments.drain,
    )
    asyncio.run(serve(config, lambda server: _announce(server, as_json=arguments.json)))


def _announce(server: "NodeServer", *, as_json: bool) -> None:
    config, node = server.config, server.node
    host = config.listen.rpartition(":")[0]
    facts = {"tier": config.tier, "address": f"{host}:{server.port}", "segments": list(node.engine.segments)}
    if as_json:
        line = json.dumps(facts)
    else:
        line = f"ready: tier {config.tier} serves segments {facts['segments']} of {config.bundle} on {facts['address']}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
