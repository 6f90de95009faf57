"""The TOML file: `[node]` for `relay-node`, `[client]` for `relay`. Unknown keys and other types are refused."""

import argparse
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.settings.errors import SettingsError
from relay.settings.table import Setting, Table

CONFIG_VARIABLE = "RELAY_CONFIG"
"""Names the file, as `--config` does."""
FILE_NAME = "relay.toml"
SECTIONS = ("node", "client")


@dataclass(frozen=True)
class ConfigFile:
    """A file that was read, and what it says for one command."""

    path: Path
    values: Mapping[str, Any]
    """By the settings' names."""


def find(flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that `--config` or RELAY_CONFIG names, else the first that is there; None: no file.

    Raises `SettingsError` if a named file is missing.
    """
    named = [(flag, "--config"), (Path(environ.get(CONFIG_VARIABLE, "")), CONFIG_VARIABLE)]
    for path, source in named:
        if path is not None and path != Path():
            if not path.exists():
                raise SettingsError(f"{source}: {path}: no such file")
            return path
    user = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "/") / ".config")
    usual = (Path(), user / "familial", Path("/etc/familial"))
    return next((folder / FILE_NAME for folder in usual if (folder / FILE_NAME).is_file()), None)


def load(path: Path, table: Table) -> ConfigFile:
    """Read the settings of one command. Raises `SettingsError`, which names the file and the key."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a TOML file: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    known = {entry.name: entry for entry in table.settings}
    for key, value in document.items():
        if key in SECTIONS and not isinstance(value, dict):
            raise SettingsError(f"{path}: {key}: expected a table, [{key}]")
        if key in known and key not in SECTIONS:
            raise SettingsError(f"{path}: {key}: stands outside of a table; put it under [{table.section}]")
        if key not in SECTIONS:
            raise SettingsError(f"{path}: {key}: unknown; {_nearest(key, SECTIONS)}")
    section = document.get(table.section, {})
    for key in section:
        if key not in known:
            raise SettingsError(f"{path}: {table.section}.{key}: unknown; {_nearest(key, known)}")
    return ConfigFile(path, {key: _value(path, table, known[key], value) for key, value in section.items()})


def _value(path: Path, table: Table, entry: Setting, value: object) -> Any:
    """A value as its flag would have it; a relative path is beside the file."""
    where = f"{path}: {table.section}.{entry.name}"
    if type(value) not in entry.kind.toml:  # exact: true is not a number here
        raise SettingsError(f"{where}: expected {entry.kind.toml_name}, got {value!r}")
    try:
        read = entry.kind.read(str(value))
    except argparse.ArgumentTypeError as error:
        raise SettingsError(f"{where}: {error}") from None
    return path.parent / read if isinstance(read, Path) else read


def _nearest(key: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(key.lower().replace("_", "-"), names, n=1, cutoff=0.0)
    return f"the nearest is {near[0]}; there are {', '.join(names)}"
