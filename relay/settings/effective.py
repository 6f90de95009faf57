"""The effective settings of a command: which value holds, and where it came from."""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from relay.settings import file
from relay.settings.errors import SettingsError
from relay.settings.table import Setting, Table, flags_of

T = TypeVar("T")
_SLIP = 0.9
"""How alike a slip and what was meant are, in difflib's measure: one letter more, less, or in the wrong place."""


@dataclass(frozen=True)
class Effective:
    """One setting as it holds."""

    setting: Setting
    value: Any
    """`dataclasses.MISSING` where it must be given and was not."""
    source: str
    """`--tier`, `RELAY_TIER`, the file's path, or `default`."""


def effective(table: Table, arguments: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Effective, ...]:
    """Every setting of the table, in its order. A variable that is empty counts as not set. Raises `SettingsError`."""
    _refuse_misspelt(table, environ)
    flags = flags_of(arguments, table)
    path = file.find(arguments.config, environ)
    config = file.load(path, table) if path else file.ConfigFile(Path(), {})

    def holds(entry: Setting) -> Effective:
        variable = _from_variable(entry, environ)  # read even where a flag overrules it: a mistake is told at once
        if entry.name in flags:
            return Effective(entry, flags[entry.name], entry.flag)
        if variable is not None:
            return Effective(entry, variable, entry.variable)
        if entry.name in config.values:
            return Effective(entry, config.values[entry.name], str(config.path))
        return Effective(entry, entry.default, "default")

    return tuple(holds(entry) for entry in table.settings)


def configuration(cls: type[T], table: Table, settings: tuple[Effective, ...]) -> T:
    """The dataclass that declared the table. Raises `SettingsError` if something that is required was not given."""
    for each in settings:
        if each.value is dataclasses.MISSING:
            entry = each.setting
            raise SettingsError(
                f"{table.command} needs a {entry.name}: give {entry.flag} {entry.kind.metavar}, the variable "
                f"{entry.variable}, or {entry.name} under [{table.section}] in {file.FILE_NAME}"
            )
    return cls(**{each.setting.field: each.value for each in settings})


def as_toml(table: Table, settings: tuple[Effective, ...], remark: Callable[[str], str]) -> str:
    """A TOML file that says the same, with a comment where each value came from; `remark` styles the comments."""
    lines = [_line(each) for each in settings]
    width = max(len(line) for line, _ in lines)
    body = "".join(f"{line.ljust(width)}  {remark(f'# {comment}')}\n" for line, comment in lines)
    return f"[{table.section}]\n{body}"


def _line(each: Effective) -> tuple[str, str]:
    """A setting and the remark on it."""
    entry = each.setting
    if each.value is dataclasses.MISSING:
        return f"# {entry.name} = {entry.kind.metavar}", "required, and not given"
    if each.value is None:
        return f"# {entry.name} = {entry.kind.metavar}", "not set"
    return f"{entry.name} = {_toml(entry.kind.written(each.value))}", each.source


def _toml(value: str | float) -> str:
    """A value as TOML; JSON's strings are TOML's but for DEL, which JSON does not escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _refuse_misspelt(table: Table, environ: Mapping[str, str]) -> None:
    """Raise `SettingsError` for a variable that is a slip away from a setting's. Others may be anybody's."""
    known = [file.CONFIG_VARIABLE, *(entry.variable for entry in table.settings)]
    for variable in environ:
        if variable.startswith("RELAY_") and variable not in known:
            for near in difflib.get_close_matches(variable, known, n=1, cutoff=_SLIP):
                raise SettingsError(f"{variable}: unknown; the nearest is {near}")


def _from_variable(entry: Setting, environ: Mapping[str, str]) -> Any:
    text = environ.get(entry.variable)
    if not text:
        return None
    try:
        return entry.kind.read(text)
    except argparse.ArgumentTypeError as error:
        raise SettingsError(f"{entry.variable}: {error}") from None
