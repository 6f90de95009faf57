"""`train-family`: train a family's branches on text and write its folder."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import positive, run
from family.completion import add_completion
from family.spec import SPEC_VERSION, Base, Exit, FamilySpec, load_spec

if TYPE_CHECKING:
    from training.base import LoadedBase
    from training.report import Report


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `train-family` command."""
    arguments = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(arguments)

    def command() -> None:
        from family.strict import dumps

        report = _train(options, arguments)
        sys.stdout.write(dumps(report) if options.json else _table(report) + "\n")

    stopped = "stopped; the same command goes on from the last checkpoint, if there was one"
    run(command, name="train-family", extra="train", interrupted=stopped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train-family",
        description="Train the branches of a family: the trunk stays as it is, and every early exit learns from the "
        "last one. Writes spec.json, branch-g.safetensors and report.json; a run that was stopped goes on with the "
        "same command.",
    )
    shape = parser.add_mutually_exclusive_group(required=True)
    shape.add_argument("--spec", type=Path, metavar="SPEC.json", help="the family to train")
    shape.add_argument("--layers", type=_layers, metavar="10,20,30", help="exits after these layers, the last included")
    parser.add_argument("--base", metavar="REF", help="Hugging Face id, local folder or .gguf file (default: SmolLM2)")
    parser.add_argument(
        "--text", nargs="+", required=True, metavar="FILE[=WEIGHT]", help=".txt or .jsonl to train on, mixed by weight"
    )
    parser.add_argument("--eval", nargs="+", required=True, type=Path, metavar="FILE", help="held-out .txt or .jsonl")
    parser.add_argument(
        "--eval-tokens", type=positive, default=1 << 17, help="most tokens of each (default %(default)s)"
    )
    parser.add_argument("--tokens", type=positive, required=True, help="tokens to train on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="family folder to write")
    parser.add_argument("--seed", type=_seed, default=0, help="decides the order of the text (default %(default)s)")
    parser.add_argument("--batch", type=positive, default=4, help="windows per step (default %(default)s)")
    parser.add_argument("--window", type=positive, default=256, help="tokens per window (default %(default)s)")
    parser.add_argument("--lr", type=_rate, default=1e-3, help="peak learning rate (default %(default)s)")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="CPU threads (default: all)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_completion(parser)
    return parser


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas, such as 10,20,30; got {text!r}") from None


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, such as 1e-3; got {text!r}")
    return value


def _train(options: argparse.Namespace, arguments: list[str]) -> "Report":
    spec = load_spec(options.spec) if options.spec else None  # before the base, which takes seconds to load
    from training.base import load_base
    from training.data import parse_source
    from training.run import Job, train
    from training.trainer import Recipe

    text = tuple(parse_source(argument) for argument in options.text)
    base = load_base(options.base)
    job = Job(
        spec=spec.with_base(Base(base.id, base.weights_sha256)) if spec else _spec(options, base),
        recipe=Recipe(options.tokens, options.batch, options.window, options.lr, options.seed),
        text=text,
        held_out=tuple(options.eval),
        eval_tokens=options.eval_tokens,
        out=options.out,
        threads=options.threads,
        command=shlex.join(["train-family", *arguments]),
    )
    return train(job, base)


def _spec(options: argparse.Namespace, base: "LoadedBase") -> FamilySpec:
    """The family that `--layers` describes: a block at every early exit, named after the output folder."""
    from family.errors import SpecError
    from family.strict import FieldError
    from training.model import spec_shapes

    exits = tuple(Exit(layer, "block") for layer in options.layers[:-1])
    try:
        return FamilySpec(
            schema_version=SPEC_VERSION,
            name=options.out.resolve().name,
            base=Base(base.id, base.weights_sha256),
            architecture=type(base.model).__name__,
            context=base.model.config.max_position_embeddings,
            exits=(*exits, Exit(options.layers[-1], "norm")),
            **spec_shapes(base.model),
        )
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
