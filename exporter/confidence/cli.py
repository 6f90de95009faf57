"""`calibrate-family`: thresholds with a promise, into a bundle's manifest."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.cli import progress_line
from exporter.confidence import DELTA
from family.cli import existing_file, positive, run
from family.completion import add_completion

if TYPE_CHECKING:
    from family.certificate import Certificate

STATISTICS = ("max_probability", "margin", "entropy")
EPSILONS = (0.01, 0.02, 0.05, 0.1)
TOKENS = 64
TUNING = 80


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="calibrate-family",
        description="Find thresholds for a bundle's exits, and write them to its manifest: with probability 1 - delta, "
        "the share of a text's tokens that differ from what the last exit would have chosen is expected to be at most "
        "epsilon, for prompts like these and texts at temperature 0.",
    )
    add = result.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="what export-family wrote")
    add("--prompts", type=existing_file, required=True, metavar="FILE.jsonl", help="`turns`, as Spec-Bench has them")
    add(
        "--epsilon",
        type=_share,
        nargs="+",
        default=EPSILONS,
        metavar="E",
        help=f"shares to promise; default: {' '.join(map(str, EPSILONS))}",
    )
    add("--delta", type=_share, default=DELTA, metavar="D", help="chance that a promise fails; default: %(default)s")
    add("--statistic", nargs="+", choices=STATISTICS, default=STATISTICS, metavar="S", help="default: all three")
    add("--tokens", type=positive, default=TOKENS, metavar="N", help="of a text at most; default: %(default)s")
    add("--tuning", type=positive, default=TUNING, metavar="N", help="prompts that thresholds are made of, before they "
        "are tested on the others; default: %(default)s")  # fmt: skip
    add("--limit", type=positive, metavar="N", help="test on so many prompts only")
    add(
        "--table",
        type=Path,
        metavar="FILE",
        help="of what was measured, to go on from; default: BUNDLE.confidence.jsonl",
    )
    add(
        "--workers", type=positive, metavar="N", help="processes, each with the bundle in memory; default: one per core"
    )
    add("--json", action="store_true", help="print the certificate as JSON")
    add_completion(result)
    return result


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `calibrate-family` command."""
    arguments = parser().parse_args(argv)
    stopped = "stopped; what was measured is kept, and the same command goes on from it"
    run(lambda: _calibrate(arguments), name="calibrate-family", extra="node", interrupted=stopped)


def _calibrate(arguments: argparse.Namespace) -> None:
    from exporter.confidence.certify import certify
    from exporter.confidence.measure import Plan, measure
    from family.manifest import load_manifest, save_manifest
    from family.strict import dumps

    bundle: Path = arguments.bundle
    load_manifest(bundle)  # fails sooner than the rest
    cores = os.cpu_count() or 1
    workers = arguments.workers or cores
    plan = Plan(
        bundle=bundle,
        prompts=arguments.prompts,
        statistics=tuple(dict.fromkeys(arguments.statistic)),
        epsilons=tuple(sorted(set(arguments.epsilon))),
        tuning_prompts=arguments.tuning,
        tokens=arguments.tokens,
        most=arguments.limit,
        workers=workers,
        threads=max(1, cores // workers),
    )
    path = arguments.table or bundle.with_name(f"{bundle.resolve().name}.confidence.jsonl")
    say = progress_line(sys.stderr)
    try:
        table = measure(plan, path, say)
    finally:
        say("")
    certificate = certify(table, plan.epsilons, arguments.delta)
    save_manifest(replace(load_manifest(bundle), certificate=certificate), bundle)
    sys.stdout.write(dumps(certificate) if arguments.json else report(certificate, plan.epsilons))


def report(certificate: "Certificate", epsilons: tuple[float, ...]) -> str:
    """The certificate, for people."""
    from exporter.confidence.bets import fewest

    depth = max((len(rule.shares) for rule in certificate.rules), default=0)
    heads = ["epsilon", "statistic", "risk", *(f"exit {g}" for g in range(1, depth + 1)), "thresholds"]
    rows = [
        [
            f"{rule.epsilon:g}",
            rule.statistic,
            f"{rule.risk:.2%}",
            *(f"{share:.1%}" for share in rule.shares),
            " ".join(f"{threshold:.3g}" for threshold in rule.thresholds),
        ]
        for rule in certificate.rules
    ]
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [heads, *rows]
    ]
    lines.append(
        f"{certificate.prompts}: {certificate.tuning_prompts} prompts for tuning, {certificate.calibration_prompts} "
        f"tested, up to {certificate.tokens} tokens at temperature 0, delta {certificate.delta:g}"
    )
    for epsilon in epsilons:
        if not any(rule.epsilon == epsilon for rule in certificate.rules):
            least = fewest(epsilon, certificate.delta)
            lines.append(f"nothing can be promised for epsilon {epsilon:g}; that takes {least} tested prompts at least")
    return "\n".join(lines) + "\n"


def _share(text: str) -> float:
    """A number between 0 and 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return value
