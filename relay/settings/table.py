"""The declared table of settings: the fields of a configuration dataclass that carry a `setting`.

A setting is named once. `max-sessions` is the flag `--max-sessions`, the variable `RELAY_MAX_SESSIONS` and the key
`max-sessions`; its default is the field's.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.settings.kinds import Kind

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """One setting of a command."""

    name: str
    field: str
    """Of the configuration that holds its value."""
    kind: Kind
    help: str
    default: Any
    """`dataclasses.MISSING` where it must be given; None where there need be no value."""

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        return "RELAY_" + self.name.upper().replace("-", "_")

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


def setting(name: str, kind: Kind, help_: str) -> Mapping[str, Any]:
    """The `metadata` of a dataclass field that is a setting."""
    return {_KEY: (name, kind, help_)}


@dataclass(frozen=True)
class Table:
    """The settings of one command."""

    command: str
    section: str
    """The table of the TOML file that holds them."""
    settings: tuple[Setting, ...]


def table_of(configuration: type, *, command: str, section: str) -> Table:
    """The settings that the fields of a dataclass declare."""
    declared = (
        Setting(name, field.name, kind, help_, field.default)
        for field in dataclasses.fields(configuration)
        if _KEY in field.metadata
        for name, kind, help_ in (field.metadata[_KEY],)
    )
    return Table(command, section, tuple(declared))


def add_flags(parser: argparse.ArgumentParser, table: Table) -> None:
    """A flag for each setting, and `--config`; what is not given is None."""
    group = parser.add_argument_group(
        "settings",
        f"A flag overrules its variable ({table.settings[0].flag}: {table.settings[0].variable}), and that the key of "
        f"the same name under [{table.section}] in the TOML file.",
    )
    for entry in table.settings:
        ends = "; required" if entry.required else "" if entry.default is None else f"; default: {entry.default}"
        text = (entry.help + ends).replace("%", "%%")
        group.add_argument(entry.flag, type=entry.kind.read, metavar=entry.kind.metavar, help=text)
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file, also RELAY_CONFIG; default: the first that is there of ./relay.toml, "
        "~/.config/familial/relay.toml, /etc/familial/relay.toml",
    )


def flags_of(arguments: argparse.Namespace, table: Table) -> dict[str, Any]:
    """The settings that were given as flags, by name."""
    values = {entry.name: getattr(arguments, entry.name.replace("-", "_")) for entry in table.settings}
    return {name: value for name, value in values.items() if value is not None}
