"""`plot-law`: pictures of a law and its runs."""

import argparse
import sys
from pathlib import Path

from family.cli import existing_file, folder, positive, run
from family.completion import add_completion


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
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--g", type=positive, default=3, metavar="G", help="of the frontier (default %(default)s)")
    add_completion(parser)
    return parser


def _plot(options: argparse.Namespace) -> None:
    from scaling.again import both_views
    from scaling.lawfile import load_law
    from scaling.plots import draw

    law = load_law(options.law)
    runs, exits = both_views(law, options.runs) if options.runs else (None, None)
    drawn = draw(law, options.out, runs, exits, options.g)
    for path in drawn.files:
        sys.stdout.write(f"{path}\n")
    for name, why in drawn.left_out.items():
        sys.stderr.write(f"note: no picture of {name}: {why}\n")


if __name__ == "__main__":
    main()
