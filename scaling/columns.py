"""Which column of a table is N, D, G, C and the loss: as the reader says, else by its name."""

import re
from collections.abc import Mapping

from scaling.errors import ScalingError
from scaling.findings import listed
from scaling.runs import Params
from scaling.table import Table

ROLES = {
    "n": "N, parameters",
    "d": "D, training tokens",
    "c": "C, training FLOPs",
    "g": "G, exits",
    "loss": "nats per token",
    "run": "which rows are one run",
    "h": "H, parameters of a head",
    "layer": "l_g, an exit's layer",
    "layers": "L, the trunk's layers",
    "weight": "w_g, an exit's weight",
    "n_exit": "N_g, parameters of an exit's own model",
}
"""What a column may be mapped to; those from `run` on are never guessed."""

_NON_EMBEDDING = ("paramsnoembed", "nonembedding", "nonembeddingparams", "nnonembedding", "paramsnonembedding")
_NAMES = {
    "n": ("n", "params", "parameters", "modelsize", "nparams", "numparams", "totalparams", "totalparameters"),
    "d": ("d", "tokens", "trainingtokens", "traintokens", "ntokens", "numtokens"),
    "c": ("c", "flops", "trainingflops", "trainingflop", "compute", "totalflops"),
    "g": ("g", "granularity"),
    "loss": ("loss", "finalloss", "valloss", "validationloss", "evalloss", "testloss"),
}
"""Columns that are recognised, letters and digits only."""

_HINTS = {"n": ("param", "model", "size"), "d": ("token",), "c": ("flop", "compute"), "loss": ("loss", "nll", "nats")}
"""By what an unrecognised column may be suggested."""

_SHOWN = 24


def find_columns(table: Table, params: Params, asked: Mapping[str, str]) -> dict[str, str]:
    """By role, the column of a table.

    Args:
        table: what was read.
        params: which N to look for, where a table has both.
        asked: by role, the column that the reader named.

    Raises:
        ScalingError: a role or column does not exist, is missing, or cannot be told from another; the text has the
            columns that are there and a mapping to try.
    """
    for role, column in asked.items():
        if role not in ROLES:
            roles = "; ".join(f"{known} ({meaning})" for known, meaning in ROLES.items())
            raise ScalingError(f"no column is mapped to {role!r}; what there is: {roles}")
        if column not in table.columns:
            raise ScalingError(f"{table.path}: no column {column!r} for {role}; there are: {_all(table)}")
    found = dict(asked)
    free = [column for column in table.columns if column not in asked.values()]
    for role in _NAMES:
        if role not in found and (hit := _recognised(table, free, role, params)):
            found[role] = hit
    if missing := [role for role in ("n", "d", "loss") if role not in found and not (role == "d" and "c" in found)]:
        raise ScalingError(_missing(table, missing, [column for column in free if column not in found.values()]))
    return found


def _recognised(table: Table, free: list[str], role: str, params: Params) -> str | None:
    """The free column whose name says that it is `role`."""
    names = _NAMES[role]
    if role == "n" and params == "non-embedding" and (hits := _named(free, _NON_EMBEDDING)):
        return hits[0]
    hits = _named(free, names)
    if len(hits) > 1 and _plain(hits[0]) != names[0]:
        raise ScalingError(
            f"{table.path}: {role} may be any of the columns {listed([repr(hit) for hit in hits])}; say which: "
            f'--map {role}="{hits[0]}"'
        )
    return hits[0] if hits else None


def _named(free: list[str], names: tuple[str, ...]) -> list[str]:
    """Those with one of the names, in the order of the names."""
    return sorted((c for c in free if _plain(c) in names), key=lambda column: names.index(_plain(column)))


def _missing(table: Table, missing: list[str], free: list[str]) -> str:
    what = " and ".join(f"{role} ({ROLES[role]}{', or c, FLOPs' if role == 'd' else ''})" for role in missing)
    text = f"{table.path}: no column for {what}; there are: {_all(table)}"
    if "n" in missing and (hits := _named(free, _NON_EMBEDDING)):
        return f"{text}; {hits[0]!r} counts no embedding: say --params non-embedding"
    guesses = {role: _guess(role, free) for role in missing}
    if "d" in missing and not guesses["d"] and (flops := _guess("c", free)):
        guesses = {"c" if role == "d" else role: guess for role, guess in (guesses | {"d": flops}).items()}
    pairs = (f'{role}="{column}"' if column else f"{role}=COLUMN" for role, column in guesses.items())
    return f"{text}; say which: --map {' '.join(pairs)}"


def _guess(role: str, free: list[str]) -> str | None:
    """The column that looks most like `role`."""
    return next((column for hint in _HINTS[role] for column in free if hint in column.lower()), None)


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _all(table: Table) -> str:
    return listed([repr(column) for column in table.columns], _SHOWN)
