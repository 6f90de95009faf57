"""`plot-law`: pictures of a law and its runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import existing_file, positive, run
from family.completion import add_completion

if TYPE_CHECKING:
    from scaling.law import FittedLaw
    from scaling.runs import Runs


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `plot-law` command."""
    options = _parser().parse_args(argv)
    run(lambda: _plot(options), name="plot-law", extra="plan", interrupted="stopped; some pictures may be missing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plot-law",
        description="Draw a law: its surface, its compute-optimal frontier and its bootstrap; with the runs, IsoFLOP "
        "profiles, residuals, and the loss of each exit by its depth. PNG and SVG; needs no display.",
    )
    parser.add_argument("law", type=Path, metavar="LAW", help="law file that fit-law --out wrote")
    parser.add_argument("--runs", type=existing_file, metavar="FILE", help="the runs that it was fitted to")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--g", type=positive, default=3, metavar="G", help="of the frontier (default %(default)s)")
    add_completion(parser)
    return parser


def _plot(options: argparse.Namespace) -> None:
    from scaling.lawfile import load_law
    from scaling.plots import draw

    law = load_law(options.law)
    runs, exits = _read(options.runs, law) if options.runs else (None, None)
    for path in draw(law, options.out, runs, exits, options.g):
        sys.stdout.write(f"{path}\n")


def _read(path: Path, law: "FittedLaw") -> "tuple[Runs | None, Runs | None]":
    """The runs as the law read them, one row for each run and one for each exit, whichever the file has."""
    from scaling.read import read_runs
    from scaling.sweeprows import is_sweep
    from scaling.table import read_table

    source, known = law.data.source, law.conventions
    where = dict(source.where) if source else {}
    columns = dict(source.columns) if source else {}

    def read(exits: bool) -> "Runs":
        return read_runs(
            path,
            params=known.params,
            compute=known.compute,
            heads=known.heads,
            columns=columns,
            where=where,
            exits=exits,
        )

    if is_sweep(read_table(path)):
        return read(False), read(True)
    runs = read(False)
    return (None, runs) if law.form.needs else (runs, runs if runs.exit_layer is not None else None)


if __name__ == "__main__":
    main()
