"""The risks that were measured: one JSON line for what was measured, then one for each prompt.

The file is written anew after every prompt, so a measurement that was stopped goes on where it was.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.confidence.errors import ConfidenceError
from family.files import write_atomic
from family.strict import from_json, to_json

TABLE_VERSION = 1


@dataclass(frozen=True)
class RuleTested:
    """A rule, and how it was made (`exporter.confidence.tuning.Candidate`)."""

    statistic: str
    thresholds: tuple[float, ...]
    accepted: float
    expected: float


@dataclass(frozen=True)
class Header:
    """What was measured. The rules were fixed before the first prompt of the table was read."""

    schema_version: int
    family: str
    """Fingerprint, as that of the export below."""
    precision: str
    export: str
    prompts: str
    """Name of the file."""
    prompts_sha256: str
    seed: int
    """Of the order of the prompts: first those for tuning, then those of the table."""
    tuning_prompts: int
    tokens: int
    """Most tokens of a text."""
    statistics: tuple[str, ...]
    epsilons: tuple[float, ...]
    """What the rules were made for."""
    rules: tuple[RuleTested, ...]
    """By statistic, and the strictest first."""


@dataclass(frozen=True)
class PromptCounts:
    """The texts of one prompt under all rules."""

    prompt: int
    """Its number in the file, from 0."""
    wrong: tuple[int, ...]
    """By rule: tokens that the last exit would not have chosen."""
    exits: tuple[tuple[int, ...], ...]
    """By rule: tokens that each exit decided."""


@dataclass(frozen=True)
class Table:
    """All that was measured."""

    header: Header
    rows: tuple[PromptCounts, ...]
    """In the order in which the prompts were drawn."""

    @property
    def risks(self) -> NDArray[np.float64]:
        """Share of wrong tokens, (prompts, rules)."""
        wrong = np.array([row.wrong for row in self.rows], np.float64)
        risks: NDArray[np.float64] = wrong / np.array([row.exits for row in self.rows]).sum(axis=2)
        return risks

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the tokens by the exit that decided, (prompts, rules, exits)."""
        counts = np.array([row.exits for row in self.rows], np.float64)
        shares: NDArray[np.float64] = counts / counts.sum(axis=2, keepdims=True)
        return shares


def save_table(table: Table, path: Path) -> None:
    """Write the file, whole or not at all."""
    lines = [table.header, *table.rows]
    write_atomic(path, "".join(json.dumps(to_json(line), separators=(",", ":")) + "\n" for line in lines))


def load_table(path: Path) -> Table:
    """Read the file. Raises `ConfidenceError`."""
    try:
        header, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        table = Table(from_json(Header, header), tuple(from_json(PromptCounts, line) for line in lines))
    except (OSError, ValueError) as error:
        raise ConfidenceError(
            f"{path}: not what calibrate-family measured ({error}); remove the file to measure anew"
        ) from None
    rules = len(table.header.rules)
    if any((len(row.wrong), len(row.exits)) != (rules, rules) for row in table.rows):
        raise ConfidenceError(f"{path}: not one count for each rule; remove the file to measure anew")
    return table
