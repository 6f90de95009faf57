"""`relay`: generate text through a relay, talk to it, and see what it is made of."""

import argparse
import io
import json
import os
import sys
from dataclasses import asdict

from family.cli import run
from family.completion import add_completion
from relay.cli.chat import add_chat
from relay.cli.colours import shown
from relay.cli.common import QUIET_GRPC, client_of, configured, print_config, write
from relay.cli.config import CLIENT_SETTINGS, ClientConfig
from relay.cli.generate import add_generate
from relay.cli.health import health
from relay.settings.table import add_flags

EXIT_BROKEN_CHAIN = 1
"""Of `relay describe`, where a node does not reach its upstream."""


def main() -> None:
    """Entry point of the `relay` command."""
    arguments = _parser().parse_args()
    os.environ.update(QUIET_GRPC | os.environ)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a text may hold what the terminal's encoding lacks
    run(lambda: arguments.command(arguments), name="relay", extra="node")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="relay", description="Ask a relay of nodes for text.")
    add_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate, chat = add_generate(commands), add_chat(commands)

    describe = commands.add_parser("describe", help="the nodes of the chain: segments, precision, memory, traffic")
    describe.set_defaults(command=_describe)

    for command in (generate, describe):
        command.add_argument("--json", action="store_true", help="one JSON object per line")

    healthy = commands.add_parser("health", help="whether one node serves; exit status 1 if not")
    healthy.set_defaults(command=_health)

    errors = commands.add_parser("errors", help="every error, by its code: what happened, and what to do")
    errors.set_defaults(command=_errors)

    config = commands.add_parser("config", help="print the settings as TOML, and where each came from")
    config.set_defaults(command=lambda arguments: print_config(CLIENT_SETTINGS, arguments))

    for command in (generate, chat, describe, healthy, config):
        add_flags(command, CLIENT_SETTINGS)
    return parser


def _describe(arguments: argparse.Namespace) -> None:
    from relay.client.aio import DESCRIBE_TIMEOUT_S

    config = configured(ClientConfig, CLIENT_SETTINGS, arguments)
    with client_of(config) as client:
        nodes = client.describe(config.timeout_s or DESCRIBE_TIMEOUT_S)
    for node in nodes:
        if arguments.json:
            write(json.dumps(asdict(node)) + "\n")
            continue
        served = f"{node.segments[0]}-{node.segments[-1]}" if len(node.segments) > 1 else str(node.segments[0])
        literal = "chunk-invariant" if node.chunk_invariant else "NOT chunk-invariant on this machine"
        lines = (
            f"{node.tier}: {node.family}, segments {served} of {node.granularity}, {node.precision}, "
            f"context {node.context}, {node.rss_bytes / 2**20:.0f} MiB, {node.sessions} sessions\n"
            f"  export {node.export_fingerprint[:12]}, {literal}, version {node.version}\n"
        )
        if node.upstream:
            state = (
                f"not reached: {node.upstream_error}"
                if node.upstream_error
                else f"{node.messages_sent} messages, {node.rows_sent} rows, {node.bytes_sent / 2**20:.2f} MiB sent; "
                f"a hop takes {node.hop_ms_p50:.2f} ms (p50), {node.hop_ms_p99:.2f} ms (p99)"
            )
            lines += f"  upstream {node.upstream}: {state}\n"
        write(shown(lines, sys.stdout))
    if any(node.upstream_error for node in nodes):
        sys.exit(EXIT_BROKEN_CHAIN)


def _errors(arguments: argparse.Namespace) -> None:  # noqa: ARG001
    from relay.errors import table

    write(table() + "\n")


def _health(arguments: argparse.Namespace) -> None:
    config = configured(ClientConfig, CLIENT_SETTINGS, arguments)
    health(config)
