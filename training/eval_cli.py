"""`eval-family`: how good a family's exits are, on texts, on the last exit's own answers, and on tasks."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from family.cli import existing_file, positive, run
from family.completion import add_completion
from training.cli import NO_SPINNING

if TYPE_CHECKING:
    from training.continuations import ContinuationScores
    from training.eval_report import EvalReport, TextScores
    from training.loaded import LoadedFamily
    from training.ranks import Reading

TASK_NAMES = ("hellaswag", "lambada")
WINDOW = 512
TOKENS = 1 << 14


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `eval-family` command."""
    arguments = sys.argv[1:] if argv is None else argv
    options = _parse(arguments)
    os.environ.update(NO_SPINNING | os.environ)

    def command() -> None:
        from family.files import write_atomic
        from family.strict import dumps

        report, table = _evaluate(options, arguments)
        if options.out:
            write_atomic(options.out, dumps(report))
        sys.stdout.write(dumps(report) if options.json else table + "\n")

    stopped = "stopped; answers that were written are kept, and the same command goes on from them"
    run(command, name="eval-family", extra="eval" if options.tasks else "train", interrupted=stopped)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.text or options.continuations or options.tasks):
        parser.error("nothing to evaluate on: give --text, --continuations or --tasks")
    if options.limit and not (options.continuations or options.tasks):
        parser.error("--limit: is of --continuations and --tasks; --tokens limits --text")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval-family",
        description="Measure every exit of a family: loss, perplexity, agreement with the last exit, and the share of "
        "tokens that it may decide by its confidence if at most 5% or 10% of all tokens are to come out otherwise.",
    )
    parser.add_argument("family", type=Path, metavar="FAMILY", help="family folder")
    parser.add_argument("--base", metavar="REF", help="in place of the base that the family was trained on")
    parser.add_argument(
        "--ranks", type=_ranks, default=(), metavar="16,32,...", help="cut low-rank branches to these ranks too"
    )
    parser.add_argument(
        "--text", action="extend", nargs="+", default=[], type=Path, metavar="FILE", help="held-out .txt or .jsonl"
    )
    parser.add_argument("--tokens", type=positive, default=TOKENS, help="most tokens of each (default %(default)s)")
    parser.add_argument(
        "--window", type=positive, help=f"tokens per window (default {WINDOW}; --tokens, or the context, if less)"
    )
    parser.add_argument(
        "--continuations",
        type=existing_file,
        metavar="PROMPTS.jsonl",
        help="score on the last exit's greedy answers to these (`turns`, as Spec-Bench has them)",
    )
    parser.add_argument(
        "--tasks",
        action="extend",
        nargs="+",
        default=[],
        type=_task,
        metavar="TASK=FILE",
        help=f"of {', '.join(TASK_NAMES)}",
    )
    parser.add_argument("--limit", type=positive, help="only so many prompts, and documents of each task")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report as JSON there")
    add_completion(parser)
    return parser


def _ranks(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _task(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if name not in TASK_NAMES or not file:
        raise argparse.ArgumentTypeError(f"expected TASK=FILE with one of {', '.join(TASK_NAMES)}; got {text!r}")
    return name, existing_file(file)


def _evaluate(options: argparse.Namespace, arguments: list[str]) -> tuple["EvalReport", str]:
    """The report, and its table."""
    from training.eval_report import EVAL_VERSION, EvalReport, table
    from training.ranks import readings_of
    from training.report import library_versions
    from training.tasks import score_task

    family = _open(options.family, options.base)
    model, tokenizer, spec = family.model, family.base.tokenizer, family.spec
    readings = readings_of(model, options.ranks)
    limit: int | None = options.limit
    report = EvalReport(
        schema_version=EVAL_VERSION,
        command=shlex.join(["eval-family", *arguments]),
        family=spec.name,
        base=spec.base,
        layers=tuple(e.layer for e in spec.exits),
        text=_texts(options, family, readings),
        continuations=_continuations(options, family, readings),
        tasks=tuple(score_task(model, tokenizer, readings, name, path, limit) for name, path in options.tasks),
        libraries=library_versions(),
    )
    return report, table(report)


def _open(folder: Path, ref: str | None) -> "LoadedFamily":
    """A family, on the GPU if there is one."""
    import torch

    from training.checkpoint import open_family

    family = open_family(folder, ref)
    torch.nn.Module.to(family.model, "cuda" if torch.cuda.is_available() else "cpu")
    return family


def _texts(
    options: argparse.Namespace, family: "LoadedFamily", readings: tuple["Reading", ...]
) -> tuple["TextScores", ...]:
    from tqdm import tqdm

    from family.files import sha256_file
    from training.data import held_out_ids
    from training.errors import DataError
    from training.eval_report import TextScores
    from training.evaluate import position_marks
    from training.ranks import reading_logits
    from training.scores import reading_scores

    spec, tokenizer = family.spec, family.base.tokenizer
    window: int = options.window or min(WINDOW, spec.context, options.tokens)
    if window > spec.context:
        raise DataError(f"--window {window}: more than the family's context of {spec.context} tokens")
    limits = options.tokens + 1, window, spec.vocab_size
    scores = []
    for path, ids in [(path, held_out_ids(path, tokenizer, *limits)) for path in options.text]:
        with tqdm(total=len(ids), unit="tok", unit_scale=True, desc=f"scoring {path.name}", disable=None) as bar:
            found = position_marks(reading_logits(family.model, readings), ids, window, window, bar.update)
        tokens = len(found[readings[-1]])
        scores.append(TextScores(path.name, sha256_file(path), tokens, window, reading_scores(found)))
    return tuple(scores)


def _continuations(
    options: argparse.Namespace, family: "LoadedFamily", readings: tuple["Reading", ...]
) -> "ContinuationScores | None":
    from tqdm import tqdm

    from training.continuations import MOST, read_prompts, score_continuations, write_continuations
    from training.fetch import cache_folder

    path: Path | None = options.continuations
    if path is None:
        return None
    model, tokenizer = family.model, family.base.tokenizer
    prompts = read_prompts(path, tokenizer, family.spec.context - MOST, options.limit)
    with tqdm(total=len(prompts), desc="answers written", disable=None) as bar:
        answers = write_continuations(model, tokenizer, prompts, cache_folder() / "continuations", bar.update)
    with tqdm(total=len(prompts), desc="answers scored", disable=None) as bar:
        return score_continuations(model, readings, prompts, answers, path, bar.update)


if __name__ == "__main__":
    main()
