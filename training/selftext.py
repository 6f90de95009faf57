"""A model's own text, to distil its exits on: what it continues prompts with, and chats of which it writes both sides.

A family's early exits are to agree with the last one on text that it writes, so their training needs such text
(sequence-level distillation: Kim and Rush, arXiv 1606.07947; on-policy text: Agarwal et al., arXiv 2306.13649).
Chats start from the chat template alone: the model writes the user's turn too (Magpie: Xu et al., arXiv 2406.08464), so
no benchmark's prompts are needed, and none are used.

Text comes in rounds of `batch` sequences. A round is a pure function of the recipe and its number, and a run that was
stopped goes on with the first round that the file has not whole.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from family.files import write_atomic
from family.strict import dumps
from training.data import Document
from training.errors import BaseModelError, DataError

CHAT = "chat"
"""The source of chats of which the model writes both sides."""
USER_TOKENS = 64
"""At most so many in a user's turn that the model writes."""
USER_TEMPERATURE = 1.0
PROMPT_TOKENS = (8, 48)
"""A prompt from a text has so many tokens, at random in between."""
CHARACTERS = 8
"""Of a text for each wanted token: more than a token has."""


@dataclass(frozen=True)
class TextRecipe:
    """What decides the text, besides the model and the prompts."""

    tokens: int
    """At least so many new tokens."""
    batch: int
    """Sequences of a round."""
    most: int
    """New tokens of a sequence at most."""
    temperatures: tuple[float, ...]
    """A round has one of these; 0 is greedy."""
    chat: float
    """Weight of chats among the sources of prompts."""
    seed: int


@dataclass(frozen=True)
class Prompts:
    """Texts to begin with."""

    name: str
    weight: float
    texts: Sequence[str]
    whole: bool
    """Whether each is a prompt as it stands (a chat up to the answer); else a piece from anywhere in it is."""


@dataclass(frozen=True)
class Sample:
    """One sequence: the prompt's ids, then the model's own."""

    ids: tuple[int, ...]
    prompt: int
    """How many of them the model was given."""
    source: str
    temperature: float
    round: int


def write_selftext(
    model: Any, tokenizer: Any, prompts: Sequence[Prompts], recipe: TextRecipe, identity: str, out: Path,
    progress: Callable[[int], object] = lambda _: None,
) -> int:  # fmt: skip
    """Append rounds to `out` (JSON lines) until it has `recipe.tokens` new tokens; how many it has.

    Args:
        model: a Hugging Face causal LM.
        tokenizer: its tokenizer, with a chat template where the recipe has chats.
        prompts: sources of prompts, besides chats.
        recipe: how much of what.
        identity: says what else decides the text (model, prompts); a file of another recipe or identity is refused.
        out: the file; beside it, `out.recipe.json` says what it is of.
        progress: called with the number of new tokens after each round.

    Raises:
        DataError: the file is of another recipe, no source has weight, or the tokenizer has no chat template or no
            end token.
    """
    weights = np.array([*(source.weight for source in prompts), recipe.chat])
    if not weights.any():
        raise DataError("nothing to begin texts with: give --prompts FILE, or --chat with a positive weight")
    _same_recipe(out, {"recipe": recipe, "identity": identity, "prompts": [[p.name, p.weight] for p in prompts]})
    number, done = _kept_rounds(out)
    progress(done)
    while done < recipe.tokens:
        rng = np.random.default_rng([recipe.seed, number])
        chosen = int(rng.choice(len(weights), p=weights / weights.sum()))
        temperature = float(rng.choice(recipe.temperatures))
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(int(rng.integers(1 << 62)))
            if chosen == len(prompts):
                name, given = CHAT, own_prompts(model, tokenizer, recipe.batch)
            else:
                name, given = prompts[chosen].name, given_prompts(prompts[chosen], tokenizer, recipe.batch, rng)
            found = continued(model, tokenizer, given, recipe.most, temperature)
        rows = [
            Sample(tuple(p) + tuple(a), len(p), name, temperature, number) for p, a in zip(given, found, strict=True)
        ]
        with out.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))
        new = sum(len(row.ids) - row.prompt for row in rows)
        number, done = number + 1, done + new
        progress(new)
    return done


def own_prompts(model: Any, tokenizer: Any, batch: int) -> list[list[int]]:
    """Chats up to the answer, whose user's turn the model writes. Turns that it does not end are ended."""
    opening, between = (_ids(tokenizer, text) for text in chat_frame(tokenizer))
    turns = continued(model, tokenizer, [opening] * batch, USER_TOKENS, USER_TEMPERATURE)
    end = tokenizer.eos_token_id
    return [[*opening, *(turn[:-1] if turn[-1] == end else turn), *between] for turn in turns]


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """The texts before a user's turn, and between it and the answer. Raises `DataError` without a chat template."""
    mark = "\N{REPLACEMENT CHARACTER}"
    if not tokenizer.chat_template:
        raise DataError("chats need a chat template, and this base's tokenizer has none; leave --chat out")
    turn = [{"role": "user", "content": mark}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    before, _, after = text.partition(mark)
    return before, after


def prompts_of(documents: Sequence[Document], tokenizer: Any, name: str, weight: float) -> Prompts:
    """Prompts from a text file's documents: of chats all up to the last answer, of other texts pieces."""
    if all(document.closed for document in documents):
        _, between = chat_frame(tokenizer)
        heads = [document.text.rpartition(between) for document in documents]
        return Prompts(name, weight, [head + found for head, found, _ in heads if found], whole=True)
    return Prompts(name, weight, [document.text for document in documents], whole=False)


def given_prompts(prompts: Prompts, tokenizer: Any, batch: int, rng: np.random.Generator) -> list[list[int]]:
    """Ids of `batch` prompts at random; a piece of a text has `PROMPT_TOKENS` ids, and begins where a word does."""
    found = []
    for text in (prompts.texts[i] for i in rng.choice(len(prompts.texts), batch)):
        if prompts.whole:
            found.append(_ids(tokenizer, text))
            continue
        length = int(rng.integers(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1))
        start = text.rfind(" ", 0, int(rng.integers(0, max(1, len(text) - CHARACTERS * length))) + 1) + 1
        found.append(_ids(tokenizer, text[start : start + CHARACTERS * length])[:length])
    return found


def continued(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], most: int, temperature: float
) -> list[list[int]]:
    """What the model adds to each prompt: up to `most` ids, the end-of-text id last where it ends earlier."""
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("the base's tokenizer has no end-of-text token; set eos_token in its tokenizer_config.json")
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), end, device=model.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    made: Tensor = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=most,
        eos_token_id=end,
        pad_token_id=end,
        repetition_penalty=1.0,
        do_sample=False,
        temperature=None,
        top_k=None,
        top_p=None,
        logits_processor=LogitsProcessorList([Drawn(temperature)] if temperature else []),
    )
    return [_ended(row, end) for row in made[:, width:].tolist()]


class Drawn(LogitsProcessor):
    """Draws each row's next id and leaves nothing else to greedy decoding."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  (transformers gives both)
        """Scores (B, V) with all but one id of each row at minus infinity."""
        return torch.full_like(scores, -torch.inf).scatter_(-1, drawn(scores, self._temperature), 0.0)


def drawn(scores: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """An id (B, 1) for each row of scores (B, V): by one number and the cumulated shares.

    transformers draws by an exponential number for every id of the vocabulary, a sixth of a step's time on a CPU.

    Raises:
        BaseModelError: the scores are not numbers.
    """
    upto = (scores / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    if not upto[:, -1].isfinite().all():
        raise BaseModelError("the base's logits are not numbers; give a base whose weights are")
    at = torch.rand(len(scores), 1, dtype=upto.dtype, device=upto.device, generator=generator) * upto[:, -1:]
    return torch.searchsorted(upto, at, right=True)


def read_samples(path: Path) -> Iterator[Sample]:
    """The sequences of a file. Raises `DataError` that names the line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield Sample(tuple(row["ids"]), row["prompt"], row["source"], row["temperature"], row["round"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}, line {number}: not a sequence of `sample-text` ({error!r})") from None


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _ended(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def _line(sample: Sample) -> str:
    return json.dumps({**sample.__dict__, "ids": list(sample.ids)}, separators=(",", ":")) + "\n"


def _same_recipe(out: Path, what: Mapping[str, object]) -> None:
    """Note what the file is of, or refuse one that is of something else."""
    note, wanted = out.with_name(out.name + ".recipe.json"), dumps(what)
    if not note.exists():
        if out.exists():
            raise DataError(f"{out}: exists, and nothing says what it is; give another --out, or delete it")
        write_atomic(note, wanted)
    elif note.read_text(encoding="utf-8") != wanted:
        raise DataError(f"{out}: was begun by another recipe ({note.name} has it); give another --out, or delete both")


def _kept_rounds(out: Path) -> tuple[int, int]:
    """The number of the next round, and new tokens in the file, cut to its whole rounds: the last one is made again."""
    if not out.exists():
        return 0, 0
    lines = out.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows = [json.loads(line) for line in lines]
    last = rows[-1]["round"] if rows else 0
    kept = [i for i, row in enumerate(rows) if row["round"] < last]
    with out.open("r+b") as file:
        file.truncate(sum(len(lines[i]) for i in kept))
    return last, sum(len(rows[i]["ids"]) - rows[i]["prompt"] for i in kept)
