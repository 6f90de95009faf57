"""What `relay` and `relay-node` share."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, TypeVar

from relay.cli.colours import Palette, wants_colour
from relay.cli.config import ClientConfig
from relay.settings.effective import as_toml, configuration, effective
from relay.settings.table import Table

if TYPE_CHECKING:
    from relay.client.sync import RelayClient

T = TypeVar("T")
QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""For the environment before gRPC loads: its core would add lines of its own to the commands' output."""


def write(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def configured(cls: type[T], table: Table, arguments: argparse.Namespace) -> T:
    """The configuration that flags, variables and the TOML file give. Raises `SettingsError`."""
    return configuration(cls, table, effective(table, arguments, os.environ))


def print_config(table: Table, arguments: argparse.Namespace) -> None:
    """Show the effective settings as TOML, whole or not. Raises `SettingsError` if one of them is wrong."""
    settings = effective(table, arguments, os.environ)
    sys.stdout.write(as_toml(table, settings, Palette(wants_colour(sys.stdout)).faint))


def client_of(config: ClientConfig) -> "RelayClient":
    """A client of the entry node that the settings name."""
    from relay.client.sync import RelayClient

    return RelayClient(config.node, ca=config.ca, cert=config.cert, key=config.key)
