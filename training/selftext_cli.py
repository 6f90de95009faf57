"""`sample-text`: a model's own text, to train its exits on (`train-family --text`)."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from family.cli import number, positive, run, whole
from family.completion import add_completion

if TYPE_CHECKING:
    from training.data import Source
    from training.selftext import Prompts


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `sample-text` command."""
    options = _parser().parse_args(argv)
    stopped = "stopped; the same command goes on after the last whole round"
    run(lambda: _sample(options), name="sample-text", extra="train", interrupted=stopped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sample-text",
        description="Let a model write text of its own, for train-family --text: a family's exits are to agree with "
        "the last one on what it writes. A run that was stopped goes on with the same command.",
    )
    parser.add_argument("--base", metavar="REF", help="Hugging Face id, local folder or .gguf file (default: SmolLM2)")
    parser.add_argument(
        "--prompts",
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE[=WEIGHT]",
        help=".txt or .jsonl to begin from: pieces of texts, chats up to the answer",
    )
    parser.add_argument(
        "--chat", type=number, default=1.0, help="weight of chats of which the model writes both sides (default 1)"
    )
    parser.add_argument("--tokens", type=positive, required=True, help="new tokens to write")
    parser.add_argument("--batch", type=positive, default=64, help="sequences at a time (default %(default)s)")
    parser.add_argument("--most", type=positive, default=224, help="new tokens of a sequence (default %(default)s)")
    parser.add_argument(
        "--temperatures",
        type=_temperatures,
        default=(0.0, 0.7, 1.0),
        metavar="T,T,...",
        help="one for each batch, at random; 0 is greedy (default 0,0.7,1)",
    )
    parser.add_argument("--seed", type=whole, default=0, help="(default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="written to, round by round")
    add_completion(parser)
    return parser


def _temperatures(text: str) -> tuple[float, ...]:
    return tuple(number(part) for part in text.split(","))


def _sample(options: argparse.Namespace) -> None:
    import torch
    from tqdm import tqdm

    from family.files import sha256_file
    from training.base import load_base
    from training.data import parse_source
    from training.selftext import TextRecipe, write_selftext

    sources = [parse_source(argument) for argument in options.prompts]
    base = load_base(options.base)
    prompts = [_prompts(source, base.tokenizer) for source in sources]
    identity = " ".join([base.weights_sha256, *(sha256_file(source.path) for source in sources)])
    recipe = TextRecipe(options.tokens, options.batch, options.most, options.temperatures, options.chat, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if torch.accelerator.is_available():
        torch.nn.Module.to(base.model, torch.accelerator.current_accelerator())
    with tqdm(total=options.tokens, unit="tok", unit_scale=True, disable=None) as bar:
        done = write_selftext(base.model, base.tokenizer, prompts, recipe, identity, options.out, bar.update)
    sys.stdout.write(f"{options.out}: {done} new tokens\n")


def _prompts(source: "Source", tokenizer: Any) -> "Prompts":
    """What a file has to begin texts with; sequences of ids, which are a model's own, begin none."""
    from training.data import read_documents
    from training.errors import DataError
    from training.selftext import prompts_of

    documents = [document for document in read_documents(source.path, tokenizer) if document.text]
    found = prompts_of(documents, tokenizer, source.name, source.weight)
    if not found.texts:
        raise DataError(f"{source.ref}: holds nothing to begin a text with; expected texts, or chats with an answer")
    return found


if __name__ == "__main__":
    main()
