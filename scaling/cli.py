"""`fit-law`: fit the scaling law to a table of runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import run, whole
from family.completion import add_completion
from scaling.choices import BOOTSTRAPS, METHODS

if TYPE_CHECKING:
    from scaling.runs import Runs

FORMS = ("dense", "tied", "full", "reducible", "M0", "M1", "M2", "M3")
EXIT_FORMS = ("M0", "M1", "M2", "M3")
"""Those of one exit's loss, which need a row per exit; a sweep has them."""


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `fit-law` command."""
    options = _parser().parse_args(argv)
    run(lambda: _fit(options), name="fit-law", extra="plan", interrupted="stopped; nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fit-law",
        description="Fit the scaling law of families, loss = (E + A N^-alpha + B D^-beta) G^gamma, to a table of runs "
        "or to the rows.jsonl of sweep-family. Says how sure each parameter is, whether the optimum is one, and why "
        "the runs may not carry the law.",
    )
    parser.add_argument("runs", type=Path, metavar="FILE", help="table of runs: .csv, .tsv, .jsonl or .parquet")
    _add_reading(parser)
    _add_fitting(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="law file to write (JSON)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_completion(parser)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the numbers are")
    group.add_argument(
        "--map",
        nargs="+",
        action="extend",
        type=_pair,
        default=[],
        metavar="ROLE=COLUMN",
        help='which column is n, d, c, g or loss, where its name does not say so: n="Model Size" loss=val_nll; without '
        "one for d, D is C/(6N). Also run (rows with one value are one run), h (parameters of a head), and for a row "
        "per exit layer, layers, weight and n_exit",
    )
    group.add_argument(
        "--where", nargs="+", action="extend", type=_pair, default=[], metavar="COLUMN=VALUE", help="rows to keep"
    )
    group.add_argument(
        "--drop-highest", type=whole, default=0, metavar="K", help="leave out the K rows of highest loss"
    )
    group.add_argument(
        "--params", choices=("total", "non-embedding"), default="total", help="what N counts (default %(default)s)"
    )
    group.add_argument(
        "--compute", choices=("given", "6ND"), help="whose C (default: that of the file, where it has one)"
    )
    group.add_argument(
        "--heads",
        action=argparse.BooleanOptionalAction,
        help="whether C counts the heads that are not in N: those of early exits, and with N non-embedding the last "
        "one too (default: given C does, and 6ND where h is mapped)",
    )


def _add_fitting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the fit")
    group.add_argument(
        "--form",
        choices=FORMS,
        help="tied: one exponent for N and D; M0 to M3: of one exit's loss (default: full where G varies, else dense)",
    )
    group.add_argument(
        "--exits",
        action="store_true",
        help="compare M0 to M3 by what they say of runs, layers and budgets that they were not fitted to, and fit the "
        "one that is chosen (or --form)",
    )
    group.add_argument(
        "--profile", action="store_true", help="also give each parameter's interval by its profile likelihood"
    )
    group.add_argument(
        "--approaches",
        action="store_true",
        help="also give the exponent of N* ~ C^a by the three approaches of Hoffmann et al. (runs with G = 1)",
    )
    group.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="certified: an optimum whose gradient says that it is one; paper: the grid of starts and L-BFGS of arXiv "
        "2512.23407, section 3.2 (default %(default)s)",
    )
    group.add_argument(
        "--bootstraps", type=whole, default=BOOTSTRAPS, metavar="B", help="draws of the runs (default %(default)s)"
    )
    group.add_argument("--seed", type=whole, default=0, help="of the draws (default %(default)s)")
    group.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="fit without the SHARE of the runs that took the most compute, and say how well the law tells their "
        "losses: 0.25",
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r} (FILE stands before)")
    return name, value


def _once(flag: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    from scaling.errors import ScalingError

    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ScalingError(f"{flag} has {repeated[0]} twice; give one value for it")
    return dict(pairs)


def _fit(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from family.strict import dumps
    from scaling.approaches import approaches
    from scaling.exitreport import exits_table, summarise_exits
    from scaling.exits import compare
    from scaling.fit import fit
    from scaling.holdout import held_out, held_out_finding, split
    from scaling.lawfile import save_law
    from scaling.profile import profiles
    from scaling.report import law_table, summarise
    from scaling.sidereport import approaches_table, profiles_table, summarise_approaches, summarise_profiles

    if options.out:
        _check_out(options.out, options.runs)
    runs, upper, found = _read(options), None, None
    if options.hold_out is not None:
        runs, upper = split(runs, options.hold_out)
    exits = compare(runs, seed=options.seed) if options.exits else None
    form = options.form or (exits.chosen if exits else None)
    law = fit(runs, form, options.method, bootstraps=options.bootstraps, seed=options.seed)
    if upper is not None:
        found = held_out(law.form, law.theta, runs, upper)
        law = replace(law, findings=(*law.findings, held_out_finding(found)))
    likelihood = profiles(runs, law.form, law.theta) if options.profile else ()
    hoffmann = approaches(runs, options.seed) if options.approaches else ()
    if options.out:
        save_law(law, options.out)
    if options.json:
        summary = summarise(
            law,
            found,
            summarise_exits(exits) if exits else None,
            summarise_profiles(likelihood) or None,
            summarise_approaches(hoffmann) or None,
        )
        sys.stdout.write(dumps(summary))
        return
    sections = [exits_table(exits)] if exits else []
    sections.append(law_table(law))
    if likelihood:
        sections.append(profiles_table(likelihood, shared=law.data.observations > law.data.runs))
    if hoffmann:
        sections.append(approaches_table(hoffmann))
    sys.stdout.write("\n\n".join(sections) + "\n")


def _check_out(out: Path, runs: Path) -> None:
    """Refuse, before the work, a place that no file can be written to, and the table itself."""
    from scaling.errors import ScalingError

    if out.is_dir():
        raise ScalingError(f"--out {out}: is a folder; name a file in it")
    if wrong := next((parent for parent in out.parents if parent.is_file()), None):
        raise ScalingError(f"--out {out}: {wrong} is a file, so nothing can be written under it")
    if out.exists() and runs.exists() and out.samefile(runs):
        raise ScalingError(f"--out {out}: is the table of runs itself; name another file")


def _read(options: argparse.Namespace) -> "Runs":
    from scaling.errors import ScalingError
    from scaling.read import read_runs

    of_exit = options.exits or options.form in EXIT_FORMS
    if options.exits and options.form and options.form not in EXIT_FORMS:
        raise ScalingError(f"--exits compares laws of one exit's loss, --form {options.form} is of a run's: give one")
    runs = read_runs(
        options.runs,
        params=options.params,
        compute=options.compute,
        heads=options.heads,
        columns=_once("--map", options.map),
        where=_once("--where", options.where),
        exits=of_exit,
    )
    return runs.without_highest(options.drop_highest)


if __name__ == "__main__":
    main()
