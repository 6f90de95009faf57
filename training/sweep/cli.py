"""`sweep-family`: plan an IsoFLOP sweep of families, run it, and see how far it is."""

import argparse
import os
import sys
from pathlib import Path

from family.cli import positive, run, seconds
from family.completion import add_completion

DATA_VARIABLE = "FAMILIAL_DATA"


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `sweep-family` command."""
    options = _parser().parse_args(argv)
    commands = {"plan": _plan, "run": _run, "status": _status, "rate": _rate, "plot": _plot}
    stopped = "stopped; finished runs are kept, and the same command does the rest"
    run(lambda: commands[options.command](options), name="sweep-family", extra="train", interrupted=stopped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sweep-family",
        description="Train many small families at fixed budgets of FLOPs, for fitting the scaling law. A sweep is a "
        "folder: you write design.json, `plan` adds plan.json and tokenizer.json, `run` adds a line to rows.jsonl for "
        "every finished run.",
    )
    add_completion(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    plan = _command(commands, "plan", "work out every run of the design")
    _data(plan)
    work = _command(commands, "run", "do the runs that have no row yet; may run several times at once")
    _data(work)
    work.add_argument("--workers", type=positive, default=1, help="processes (default %(default)s)")
    work.add_argument("--threads", type=positive, default=1, help="CPU threads of a run (default %(default)s)")
    work.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="what computes (default %(default)s)")
    work.add_argument("--limit", type=positive, metavar="N", help="only the plan's first N runs")
    work.add_argument("--budget-s", type=seconds, metavar="S", help="begin no run after S seconds")
    work.add_argument(
        "--ray", metavar="ADDRESS", help="on the Ray cluster there, instead of --workers (`auto`, `local`, HOST:PORT)"
    )
    status = _command(commands, "status", "what is done and what is left")
    for reporting in (plan, work, status):
        reporting.add_argument("--json", action="store_true", help="print JSON")
    _command(commands, "rate", "the learning-rate rule that a sweep over learning rates gives, for a design's `rate`")
    _command(commands, "plot", "write the IsoFLOP profiles and the losses by exit as PNG files into the folder")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the sweep's folder")
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get(DATA_VARIABLE)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(default) if default else None,
        required=not default,
        help=f"folder from which the design names its texts (default: ${DATA_VARIABLE})",
    )


def _plan(options: argparse.Namespace) -> None:
    from family.strict import dumps
    from training.fetch import cache_folder
    from training.sweep.corpus import fit_tokenizer, load_corpus
    from training.sweep.design import load_design
    from training.sweep.plan import make_plan, save_plan

    design = load_design(options.folder)
    fit_tokenizer(design.texts, options.data, options.folder)
    corpus = load_corpus(design.texts, options.data, options.folder, cache_folder() / "tokens")
    plan = make_plan(design, corpus.facts)
    save_plan(plan, options.folder)
    lines = [f"{plan.flops(r) / r.tokens:>9.3g} FLOPs/token, {r.tokens:>10,} tokens: {r}" for r in plan.runs]
    total = sum(plan.flops(r) for r in plan.runs)
    lines.append(f"{len(plan.runs)} runs, {total:.3g} FLOPs, {corpus.facts.unique_tokens:,} unique tokens")
    sys.stdout.write(dumps(plan) if options.json else "\n".join(lines) + "\n")


def _run(options: argparse.Namespace) -> None:
    from training.fetch import cache_folder
    from training.sweep.plan import load_plan
    from training.sweep.work import Effort, Place, do_runs

    plan = load_plan(options.folder)
    place = Place(options.folder, options.data, cache_folder() / "tokens")
    effort = Effort(options.workers, options.threads, options.device, options.limit, options.budget_s)
    if options.ray:
        from training.sweep.cluster import do_runs_on_ray

        do_runs_on_ray(place, plan, effort, options.ray)
    else:
        do_runs(place, plan, effort)
    _status(options)


def _status(options: argparse.Namespace) -> None:
    from family.strict import dumps
    from training.sweep.plan import load_plan
    from training.sweep.rows import read_rows
    from training.sweep.status import status_table, sweep_status

    status = sweep_status(load_plan(options.folder), read_rows(options.folder))
    sys.stdout.write(dumps(status) if options.json else status_table(status) + "\n")


def _rate(options: argparse.Namespace) -> None:
    from family.strict import dumps
    from training.sweep.rate import best_rates, fit_rate
    from training.sweep.rows import read_rows

    best = best_rates(read_rows(options.folder))
    rule = fit_rate(best)
    for b in best:
        note = "" if b.inside else "  (at the edge of what was tried)"
        sys.stderr.write(f"{b.parameters:>10,} parameters: best rate {b.rate:g}, loss {b.loss:.4f}{note}\n")
    sys.stdout.write(dumps(rule))


def _plot(options: argparse.Namespace) -> None:
    from training.sweep.plot import plot_sweep
    from training.sweep.rows import read_rows

    for path in plot_sweep(read_rows(options.folder), options.folder):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
