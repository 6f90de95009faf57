"""`read-law`: what budgets buy under a law, what a G costs, and what it saves."""

import argparse
import sys
from pathlib import Path

from family.cli import positive, run
from family.completion import add_completion

USUAL = (1, 2, 4)
"""G, where the law knows G."""


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `read-law` command."""
    options = _parser().parse_args(argv)
    run(lambda: _read(options), name="read-law", extra="plan")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="read-law",
        description="Read a law at budgets: the best model size N*, tokens D* and loss L* for each C, the compute that "
        "a family of G exits needs for a dense model's loss (mean over exits, and last exit alone), and what it saves "
        "against G models trained separately. With intervals.",
    )
    parser.add_argument("law", type=Path, metavar="FILE", help="law file that fit-law --out wrote")
    parser.add_argument("--compute", nargs="+", type=_flops, required=True, metavar="C", help="budgets, FLOPs: 1e20")
    family = parser.add_mutually_exclusive_group()
    family.add_argument(
        "--g", nargs="+", type=positive, metavar="G", help="families, exits evenly placed (default: 1 2 4)"
    )
    family.add_argument(
        "--depths",
        nargs="+",
        type=_depth,
        metavar="DEPTH",
        help="one family by the depths of its early exits, as shares of the trunk's layers: 0.25 0.5",
    )
    parser.add_argument(
        "--trunks",
        metavar="FILE",
        help="trunks to build families on: the rows.jsonl of a sweep, or 'paper' for those of arXiv 2512.23407. Adds "
        "the frontier with the exact FLOPs of all branches and heads, and the sizes of exits",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_completion(parser)
    return parser


def _flops(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of FLOPs, got {text!r}")
    return value


def _depth(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share of the layers between 0 and 1, got {text!r}")
    return value


def _read(options: argparse.Namespace) -> None:
    from family.strict import dumps
    from scaling.budgetreport import budgets_table
    from scaling.budgets import knows_g, read_budgets
    from scaling.lawfile import load_law
    from scaling.trunks import even_depths, read_trunks

    law = load_law(options.law)
    if options.depths:
        families: list[tuple[float, ...]] = [(1.0,), (*sorted(set(options.depths)), 1.0)]
    else:
        families = [even_depths(g) for g in sorted(set(options.g or (USUAL if knows_g(law.form) else (1,))))]
    trunks = read_trunks(options.trunks) if options.trunks else None
    found = read_budgets(law, sorted(set(options.compute)), families, trunks)
    sys.stdout.write(dumps(found) if options.json else budgets_table(found) + "\n")


if __name__ == "__main__":
    main()
