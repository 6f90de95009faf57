"""`plan-family`: which family to train, where to cut it, and what it takes to run it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import run, seconds
from family.completion import add_completion

if TYPE_CHECKING:
    from scaling.plan.exitlaw import ExitLaw
    from scaling.plan.fleet import Fleet

COMMANDS = ("init", "schema", "hardware")
"""Words in the place of FLEET.yaml."""


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `plan-family` command."""
    options = _parse(argv)
    run(lambda: _command(options), name="plan-family", extra="plan")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.fleet in COMMANDS:
        others = "law", "bundle", "statistics", "online", "out", "strict", "explain"
        unread = [name for name in others if getattr(options, name)]
        unread += ["json"] * (options.json and options.fleet != "hardware")
        if unread:
            parser.error(f"--{unread[0]}: {options.fleet} takes no such option")
        if options.file is not None and options.fleet != "init":
            parser.error(f"{options.file}: only init takes a second name")
        return options
    if options.statistics and not options.bundle:
        parser.error("--statistics: goes with --bundle")
    if options.online:
        if not options.bundle:
            parser.error("--online: goes with --bundle, the one that the nodes serve")
        if options.law:
            parser.error("--law: is of a family that is to be trained, --online is for nodes that run")
        if options.out or options.json or options.strict or options.explain:
            parser.error(
                "--online: tells nodes what to do and writes nothing; leave --out, --json, --strict and --explain out"
            )
        return options
    if options.bundle and options.law:
        parser.error("--law: is of a family that is to be trained, --bundle is of one that was")
    if options.file is not None:
        parser.error(f"{options.file}: only init takes a second name")
    if options.out is None:
        parser.error("--out DIR: say where the plan is to be written")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plan-family",
        description="Plan a family for a fleet: given tiers, links, traffic and goals, choose N, D, G, exit layers and "
        "which tier runs what, by a fitted law of exits, and say how many machines it takes. Writes plan.json, "
        "family-spec.json for train-family, a report, settings of each node and replica counts.",
    )
    parser.add_argument(
        "fleet",
        metavar="FLEET.yaml",
        help="the fleet; or init [FILE], which writes a commented example, schema, which prints the JSON schema of a "
        "fleet, or hardware, which lists the machines that are known by name",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="of init (default: fleet.yaml)")
    parser.add_argument(
        "--law",
        metavar="LAW",
        help="law file of fit-law --exits --out, or the name of one that comes with the planner, sweep-exits or "
        "chinchilla-dense (default: of these, the one whose runs are nearest to the training budget)",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="plan for this family, as it was exported and measured; of several exports, at a precision each, the best "
        "is chosen",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE",
        help="of --bundle: how often its exits decide and its drafts are right (default: what its certificate has)",
    )
    parser.add_argument(
        "--online",
        metavar="HOST:PORT",
        help="of --bundle: plan again and again for the nodes that run already, as links and load change: look how the "
        "chain of this entry node does, and tell it the policy, codec and exit of texts that choose none themselves; "
        "until Ctrl-C",
    )
    parser.add_argument(
        "--every", type=seconds, default=10.0, metavar="SECONDS", help="of --online: between two looks (default: 10)"
    )
    for name, what in (("ca", "authority of its certificate"), ("cert", "certificate to show it"), ("key", "its key")):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"of --online, for a node with TLS: {what}")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write, for one plan: what an earlier one left there goes"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a plan that lies outside the range of the law or of a profile"
    )
    parser.add_argument(
        "--explain", action="store_true", help="say why this G and these layers, what binds, what more would buy"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print plan.json in place of the table; of hardware, every figure with its source",
    )
    add_completion(parser)
    return parser


def _command(options: argparse.Namespace) -> None:
    if options.fleet == "init":
        _init(options.file or Path("fleet.yaml"))
    elif options.fleet == "schema":
        from family.strict import dumps
        from scaling.plan.fleetcheck import schema

        sys.stdout.write(dumps(schema()))
    elif options.fleet == "hardware":
        from family.strict import dumps
        from scaling.plan.hardware import rows
        from scaling.plan.table import hardware_table

        sys.stdout.write(dumps(rows()) if options.json else hardware_table())
    elif options.online:
        _follow(options)
    else:
        _plan(options)


def _init(path: Path) -> None:
    from family.files import write_atomic
    from scaling.errors import ScalingError
    from scaling.plan.fleetfile import example

    if path.exists():
        raise ScalingError(f"{path}: is there already; name another file: plan-family init FILE")
    write_atomic(path, example())
    sys.stdout.write(f"wrote {path}; then: plan-family {path} --out plan\n")


def _plan(options: argparse.Namespace) -> None:
    if options.bundle:
        _plan_bundle(options)
        return
    from family.strict import dumps
    from scaling.plan.fleetfile import read_fleet
    from scaling.plan.outputs import SPEC_NAME, check_out, write
    from scaling.plan.planner import plan
    from scaling.plan.table import plan_table

    check_out(options.out)
    fleet = read_fleet(Path(options.fleet))
    found = plan(fleet, _law(options.law, fleet), strict=options.strict, explained=options.explain)
    write(found, fleet, options.out)
    if options.json:
        sys.stdout.write(dumps(found.document))
        return
    spec, tokens = options.out / SPEC_NAME, round(found.document.best.tokens)
    sys.stdout.write(plan_table(found.document))
    sys.stdout.write(
        f"\nwrote {options.out}; then: train-family --spec {spec} --tokens {tokens} --text ... --out ...\n"
    )


def _follow(options: argparse.Namespace) -> None:
    from scaling.errors import ScalingError
    from scaling.plan.follow import follow

    tls = options.ca, options.cert, options.key
    if len(options.bundle) > 1:
        raise ScalingError("--online: give the one --bundle that the nodes run")
    follow(_fleet(options), options.bundle[0], options.statistics, options.online, options.every, tls)


def _fleet(options: argparse.Namespace) -> "Fleet":
    """Of a bundle."""
    from family.manifest import load_manifest
    from scaling.plan.fleetfile import read_fleet

    return read_fleet(Path(options.fleet), load_manifest(options.bundle[0]).spec.context)


def _plan_bundle(options: argparse.Namespace) -> None:
    from family.strict import dumps
    from scaling.plan.bundleplan import plan_bundle
    from scaling.plan.outputs import check_out, write_bundle
    from scaling.plan.table import bundle_table

    check_out(options.out)
    fleet = _fleet(options)
    found = plan_bundle(fleet, options.bundle, options.statistics, options.strict, options.explain)
    write_bundle(found, fleet, options.out)
    sys.stdout.write(dumps(found) if options.json else bundle_table(found) + f"\nwrote {options.out}\n")


def _law(given: str | None, fleet: "Fleet") -> "ExitLaw":
    from scaling.errors import ScalingError
    from scaling.plan.exitlaw import SHIPPED, open_law, shipped, shipped_law

    if given is None:
        return shipped_law(max(fleet.training.budget, 1.0))
    if given not in SHIPPED and not Path(given).exists():
        raise ScalingError(
            f"--law {given}: no such file, and the planner comes with {' and '.join(SHIPPED)}; write one with: "
            "fit-law RUNS --exits --out law.json"
        )
    return shipped(given) if given in SHIPPED else open_law(Path(given))


if __name__ == "__main__":
    main()
