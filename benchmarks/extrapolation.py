"""What laws say of more compute than they saw: fitted to the lower 75% of every public set, tested on the rest.

A set is a folder of public runs; where it holds several kinds (training texts, routers, experiments) each part has a
law of its own, and the set's error is the median of its parts' errors. An error is |predicted / measured loss - 1|,
its median over the held-out runs (`scaling.holdout`, which never splits a budget). `median_extrapolation_error` is the
median over the sets. Beside it stand the errors of two predictions that need no law: a power of C alone, and the lowest
loss so far. `own` is the sweep in experiments/isoflop/cpu, which is not counted in.

Forms: dense, E + A N^-alpha + B D^-beta, with two exceptions. The routed models all saw 130e9 tokens, so the term of D
is part of E, and G is the number of experts; the pairs of Porian et al. are the best of each budget, whose losses are
E + A C^-alpha. Where runs have a G, of the two forms with gamma (on the whole loss, or on the part that can be reduced)
that is taken which fits the lower part better. kyo-chinchilla-llm is a selection of the same figure's points as
epoch-chinchilla.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import public, report

if TYPE_CHECKING:
    from scaling.forms import Form
    from scaling.runs import Runs

SHARE = 0.25
BAR = 0.015
"""Of the median over the sets."""
OWN = report.ROOT / "experiments" / "isoflop" / "cpu" / "rows.jsonl"
ERRORS = ("error", "power_error", "lowest_error")


def measure(names: Sequence[str] = tuple(public.SETS)) -> dict[str, Any]:
    """All parts of the sets, and the medians."""
    from scaling.forms import FULL, REDUCIBLE
    from scaling.read import read_runs

    forms = _forms()
    parts = [
        {"set": name, "part": part, **extrapolate(runs, forms[name])}
        for name in names
        for part, runs in public.SETS[name]().items()
    ]
    sets = {
        name: {error: statistics.median(part[error] for part in parts if part["set"] == name) for error in ERRORS}
        for name in names
    }
    medians = {error: statistics.median(of[error] for of in sets.values()) for error in ERRORS}
    return {
        "share": SHARE,
        "bar": BAR,
        "median_extrapolation_error": medians["error"],
        "median_over_parts": statistics.median(part["error"] for part in parts),
        "medians": medians,
        "sets": sets,
        "parts": parts,
        "own": {"set": "experiments/isoflop/cpu", "part": "", **extrapolate(read_runs(OWN), (FULL, REDUCIBLE))},
    }


def extrapolate(runs: "Runs", forms: "Sequence[Form]") -> dict[str, Any]:
    """What a law of the lower part says of the upper: of the forms, all of as many parameters, the better fit."""
    from scaling.holdout import held_out, split
    from scaling.solve import solve

    lower, upper = split(runs, SHARE)
    fits = [(form, solve(form, lower)) for form in forms]
    form, found = min(fits, key=lambda fit: fit[1].certificate.objective)
    return {
        "form": form.formula,
        "certified": found.certificate.certified,
        "parameters": dict(zip(form.natural_names, form.natural(found.theta).tolist(), strict=True)),
        **asdict(held_out(form, found.theta, lower, upper)),
    }


def table(result: dict[str, Any]) -> str:
    """Every part, then every set, as Markdown tables."""
    lines = [
        "| set | form | fitted, held out | reach | median error | largest | a power of C | lowest loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in (*result["parts"], result["own"]):
        cells = (
            " ".join(filter(None, (part["set"], part["part"]))),
            part["form"] + ("" if part["certified"] else " (not certified)"),
            f"{part['fitted']}, {part['predicted']}",
            f"{part['reach']:.1f}x",
            *(f"{part[name]:.2%}" for name in ("error", "largest", "power_error", "lowest_error")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| set | law | a power of C | lowest loss |", "|---|---|---|---|"]
    rows = {**result["sets"], "median of the sets": result["medians"]}
    lines += [f"| {name} | {' | '.join(f'{of[error]:.2%}' for error in ERRORS)} |" for name, of in rows.items()]
    text = f"at most {result['bar']:.1%} is wanted; the median of all parts is {result['median_over_parts']:.2%}"
    return "\n".join(lines) + f"\n\n{text}\n"


def _forms() -> "Mapping[str, Sequence[Form]]":
    """By set, the forms to choose from."""
    from scaling.forms import DENSE, Form

    frontier = Form(
        "frontier", "E + A C^-alpha", ("alpha",), (), lambda runs: {"alpha": (None, -np.log(runs.c))}, ("e", "a")
    )
    whole = Form(
        "full at one D",
        "(E + A N^-alpha) G^gamma",
        ("alpha", "gamma"),
        (),
        lambda runs: {"alpha": (None, -np.log(runs.n)), "gamma": (np.log(runs.g), np.log(runs.g))},
        ("e", "a"),
    )
    part = Form(
        "reducible at one D",
        "E + A N^-alpha G^gamma",
        ("alpha", "gamma"),
        (),
        lambda runs: {"alpha": (None, -np.log(runs.n)), "gamma": (None, np.log(runs.g))},
        ("e", "a"),
    )
    return dict.fromkeys(public.SETS, (DENSE,)) | {"deepmind-routing": (whole, part), "porian": (frontier,)}


if __name__ == "__main__":
    report.main("extrapolation", __doc__, measure, table)
