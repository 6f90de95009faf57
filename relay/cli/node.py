"""`relay-node`: serve one tier's part of a bundle."""

import argparse
import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING

from family.cli import run
from family.completion import add_completion
from relay.cli.common import QUIET_GRPC, configured, print_config
from relay.cli.notify import notify_ready
from relay.node.config import NODE_SETTINGS, NodeConfig
from relay.settings.table import add_flags

if TYPE_CHECKING:
    from relay.node.serve import NodeServer


def main() -> None:
    """Entry point of the `relay-node` command; `relay-node profile` measures in place of serving."""
    if sys.argv[1:2] == ["profile"]:
        from relay.cli import profile

        profile.main(sys.argv[2:])
        return
    arguments = _parser().parse_args()
    os.environ.update(QUIET_GRPC | os.environ)
    run(lambda: _serve(arguments), name="relay-node", extra="node")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="relay-node",
        description="Serve one tier of a family: its trunk segments and the exits on them. `relay-node profile` "
        "measures this machine for the planner instead; it has a --help of its own.",
    )
    add_flags(parser, NODE_SETTINGS)
    parser.add_argument("--json", action="store_true", help="say that the node is ready as one JSON object")
    parser.add_argument("--print-config", action="store_true", help="print the settings as TOML, and do not serve")
    add_completion(parser)
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    if arguments.print_config:
        print_config(NODE_SETTINGS, arguments)
        return
    config = configured(NodeConfig, NODE_SETTINGS, arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    from relay.node.serve import serve

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
    notify_ready()


if __name__ == "__main__":
    main()
