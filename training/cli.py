"""`train-family`: train a family on text and write its folder."""

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import number, positive, run, whole
from family.completion import add_completion
from family.spec import BRANCH_KINDS, SCRATCHES, SPEC_NAME, Base, Exit, FamilySpec, load_spec
from training.presets import PRESETS
from training.recipe import OBJECTIVES, SCHEDULES, TRUNKS, Recipe, WeightPoint

if TYPE_CHECKING:
    from training.base import LoadedBase
    from training.report import Report

DEFAULT_BRANCH = "block"
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""For the environment before PyTorch loads: its CPU threads otherwise spin while one of them is kept from running, and
on a machine that does something else too that costs more than half of the speed."""


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `train-family` command."""
    arguments = sys.argv[1:] if argv is None else argv
    options = _parse(arguments)
    os.environ.update(NO_SPINNING | os.environ)

    def command() -> None:
        from family.strict import dumps

        report = _train(options, arguments)
        if report is not None:
            sys.stdout.write(dumps(report) if options.json else _table(report) + "\n")

    stopped = "stopped; the same command goes on from the last checkpoint, if there was one"
    run(command, name="train-family", extra="train", interrupted=stopped)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.layers is None and (options.branch or options.rank):
        parser.error("--branch and --rank: are of --layers; --spec, --from and --preset say what their exits add")
    if (options.branch == "lowrank") != bool(options.rank):
        parser.error("--rank: goes with --branch lowrank, which needs it")
    if options.preset and options.trunk not in (None, "full"):
        parser.error(f"--trunk {options.trunk}: --preset begins with weights at random, so all of it is trained")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train-family",
        description="Train a family: every early exit learns from the text, from the last exit, or both, and the trunk "
        "stays as it is, gets low-rank deltas, or is trained too. Writes a family folder with a report; a run that was "
        "stopped goes on with the same command. On several processes: torchrun --nproc-per-node N -m training.cli ...",
    )
    _add_shape(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="family folder to write")
    _add_text(parser)
    _add_learning(parser)
    _add_running(parser)
    add_completion(parser)
    return parser


def _add_shape(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the family")
    shape = group.add_mutually_exclusive_group(required=True)
    shape.add_argument("--layers", type=_layers, metavar="10,20,30", help="exits after these layers, the last included")
    shape.add_argument("--spec", type=Path, metavar="SPEC.json", help="the family to train, as plan-family writes it")
    shape.add_argument(
        "--from", dest="start", type=Path, metavar="DIR", help="go on with a family on a frozen trunk, on other text"
    )
    shape.add_argument(
        "--preset",
        metavar="NAME",
        help=f"shape and exits by name, weights at random, trained as a whole: {', '.join(PRESETS)}",
    )
    group.add_argument(
        "--base",
        metavar="REF",
        help="Hugging Face id, local folder or .gguf file (default: SmolLM2); its tokenizer, where a "
        "preset or a planned family begins from scratch",
    )
    group.add_argument(
        "--branch", choices=BRANCH_KINDS, help=f"what an exit of --layers adds (default {DEFAULT_BRANCH})"
    )
    group.add_argument("--rank", type=positive, help="of a lowrank branch")
    group.add_argument(
        "--trunk",
        choices=TRUNKS,
        help="what of the trunk is trained (default frozen; full with --preset and for a planned family)",
    )
    group.add_argument("--lora-rank", type=positive, help="of the deltas of --trunk lora")


def _add_text(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text")
    group.add_argument(
        "--text",
        action="extend",
        nargs="+",
        required=True,
        metavar="TEXT[=WEIGHT]",
        help=".txt, .jsonl, .parquet or hf:ID[@CONFIG][:SPLIT] to train on, mixed by weight",
    )
    group.add_argument(
        "--eval",
        action="extend",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help="held-out files to score on",
    )
    group.add_argument(
        "--eval-tokens", type=positive, default=1 << 17, help="most tokens of each (default %(default)s)"
    )
    group.add_argument("--tokens", type=positive, required=True, help="tokens to train on")
    group.add_argument(
        "--passes",
        type=positive,
        default=1,
        help="how often every window of them comes; a frozen trunk's rows are kept on disk meanwhile, so that it runs "
        "once (default %(default)s)",
    )
    group.add_argument("--window", type=positive, default=256, help="tokens per window (default %(default)s)")
    group.add_argument("--batch", type=positive, default=4, help="windows per step (default %(default)s)")
    group.add_argument("--seed", type=whole, default=0, help="decides the order of the text (default %(default)s)")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learning")
    kinds = tuple(dict.fromkeys(OBJECTIVES.values()))
    usual = ", ".join(f"{kind} for a {trunk} trunk" for trunk, kind in OBJECTIVES.items())
    group.add_argument(
        "--objective", choices=kinds, help=f"cross-entropy, KL from the last exit, or both (default: {usual})"
    )
    group.add_argument(
        "--kl-weight", type=_share, default=Recipe.kl_weight, help="of KL in ce+kl (default %(default)s)"
    )
    group.add_argument(
        "--temperature", type=_positive_number, default=Recipe.temperature, help="of KL (default %(default)s)"
    )
    group.add_argument(
        "--every", type=positive, default=Recipe.every, help="every how many positions carry KL (default %(default)s)"
    )
    group.add_argument(
        "--weights",
        nargs="+",
        type=_weights,
        default=(),
        metavar="[SHARE:]W,W,...",
        help="of the exits' losses (default 1/G each); several, each from that share of the run on, linear in between",
    )
    group.add_argument("--lr", type=_positive_number, default=1e-3, help="peak learning rate (default %(default)s)")
    group.add_argument("--schedule", choices=SCHEDULES, default=Recipe.schedule, help="(default %(default)s)")
    group.add_argument("--warmup", type=_share, default=Recipe.warmup, help="share of the steps (default %(default)s)")
    group.add_argument("--weight-decay", type=number, default=Recipe.weight_decay, help="(default %(default)s)")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="matrix products in bfloat16 (default: on a GPU that has it, and on a CPU with AMX)",
    )
    group.add_argument("--accumulate", type=positive, default=1, help="parts that a batch is worked on in (default 1)")
    group.add_argument(
        "--save-every", type=positive, metavar="STEPS", help="between checkpoints (default: 20 in a run)"
    )
    group.add_argument("--threads", type=positive, help="CPU threads of each process (default: all, shared)")
    group.add_argument("--log-dir", type=Path, metavar="DIR", help="write TensorBoard's files there")
    group.add_argument("--json", action="store_true", help="print the report as JSON")


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas, such as 10,20,30; got {text!r}") from None


def _weights(text: str) -> WeightPoint:
    share, _, weights = text.rpartition(":")
    try:
        return WeightPoint(_share(share or "0"), tuple(number(part) for part in weights.split(",")))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,1,2 or 0.5:1,1,2; got {text!r}") from None


def _positive_number(text: str) -> float:
    try:
        value = number(text)
    except argparse.ArgumentTypeError:
        value = 0.0
    if not value:
        raise argparse.ArgumentTypeError(f"expected a positive number, such as 1e-3; got {text!r}")
    return value


def _share(text: str) -> float:
    if (value := number(text)) > 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _train(options: argparse.Namespace, arguments: list[str]) -> "Report | None":
    known = options.start / SPEC_NAME if options.start else options.spec
    spec = load_spec(known) if known else None  # before the base, which takes seconds to load
    from training.data import parse_source
    from training.run import Job, train

    text = tuple(parse_source(argument) for argument in options.text)
    scratch = bool(options.preset) or (spec is not None and options.start is None and spec.base.id in SCRATCHES)
    recipe = _recipe(options, scratch)
    base = _base(options, spec)
    if spec is None:
        spec = _spec(options, base)
    elif options.start:
        spec = replace(spec, name=options.out.resolve().name)
    job = Job(
        spec=spec.with_base(Base(base.id, base.weights_sha256)),
        recipe=recipe,
        text=text,
        held_out=tuple(options.eval),
        eval_tokens=options.eval_tokens,
        out=options.out,
        start=options.start,
        command=shlex.join(["train-family", *arguments]),
        accumulate=options.accumulate,
        save_every=options.save_every,
        threads=options.threads,
        log_dir=options.log_dir,
    )
    return train(job, base)


def _recipe(options: argparse.Namespace, scratch: bool) -> Recipe:
    from training.errors import RecipeError
    from training.trainer import has_fast_bf16

    if scratch and options.trunk not in (None, "full"):
        raise RecipeError(f"--trunk {options.trunk}: the family begins with weights at random, so all of it is trained")
    trunk = "full" if scratch else options.trunk or "frozen"
    return Recipe(
        tokens=options.tokens,
        batch=options.batch,
        window=options.window,
        lr=options.lr,
        seed=options.seed,
        passes=options.passes,
        schedule=options.schedule,
        warmup=options.warmup,
        weight_decay=options.weight_decay,
        bf16=has_fast_bf16() if options.bf16 is None else options.bf16,
        trunk=trunk,
        lora_rank=options.lora_rank,
        objective=options.objective or OBJECTIVES[trunk],
        kl_weight=options.kl_weight,
        temperature=options.temperature,
        every=options.every,
        weights=tuple(options.weights),
    )


def _base(options: argparse.Namespace, spec: FamilySpec | None) -> "LoadedBase":
    """The pretrained base, with `--from` the family's, or for a preset or a planned family one with random weights."""
    from training.base import load_base, load_base_of
    from training.scratch import random_base, random_base_of

    if options.start and spec:
        return load_base_of(spec, options.base)
    if spec and spec.base.id in SCRATCHES:
        return random_base_of(spec, options.base, options.seed)
    if options.preset is None:
        return load_base(options.base)
    return random_base(options.preset, options.base, options.seed)


def _spec(options: argparse.Namespace, base: "LoadedBase") -> FamilySpec:
    """The family that `--layers` or `--preset` describes, named after the output folder."""
    from family.errors import SpecError
    from family.strict import FieldError
    from training.shapes import new_spec

    exits: tuple[Exit, ...]
    if options.preset is None:
        early = (Exit(layer, options.branch or DEFAULT_BRANCH, options.rank) for layer in options.layers[:-1])
        exits = (*early, Exit(options.layers[-1], "norm"))
    else:
        exits = PRESETS[options.preset].exits
    try:
        return new_spec(options.out.resolve().name, Base(base.id, base.weights_sha256), base.model, exits)
    except FieldError as error:
        raise SpecError(f"--layers: {error}") from None


def _table(report: "Report") -> str:
    lines = [f"{report.tokens_seen} tokens in {report.seconds:.0f} s"]
    for held_out in report.held_out:
        scores = held_out.scores
        lines.append(f"{held_out.file}: {scores.tokens} tokens, window {scores.window}, stride {scores.stride}")
        lines += [
            f"  exit {s.exit}: cross-entropy {s.cross_entropy:.3f}, agrees with the last exit {s.agreement:.1%}"
            for s in scores.exits
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
