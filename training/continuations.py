"""What the last exit answers to a file of prompts, greedily, and how the others do on these answers.

The texts are a pure function of the last exit's weights, the prompts, and the numbers below, and are kept in the cache
under a hash of these, batch by batch: a run that was stopped goes on, and families on the same frozen base share them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from family.files import sha256_file, write_atomic
from family.strict import canonical
from training.base import hash_weights
from training.errors import DataError
from training.evaluate import Marks, joined, mark
from training.modeling import FamilyForCausalLM
from training.ranks import Reading, rows_of
from training.repeats import GRAM, ends_in_loop, repeats
from training.scores import ReadingScore, reading_scores
from training.selftext import continued

MOST = 128
"""New tokens of an answer at most."""
WRITTEN_AT_ONCE = 16
SCORED_AT_ONCE = 8

Ids = list[int]


@dataclass(frozen=True)
class FreshScore:
    """Agreement of an exit where the text says something new."""

    exit: int
    rank: int | None
    agreement: float


@dataclass(frozen=True)
class ContinuationScores:
    """All exits on the last exit's answers to a file of prompts. Only the answers' tokens are counted."""

    file: str
    sha256: str
    prompts: int
    tokens: int
    """Of the answers, an end token included."""
    repeats: float
    """4-grams of an answer that occurred before in it, as a share of all 4-grams (`training.repeats`)."""
    loops: float
    """Share of the answers that end in a loop (`training.repeats`)."""
    exits: tuple[ReadingScore, ...]
    fresh: tuple[FreshScore, ...]
    """Agreement on the tokens that complete no repeated 4-gram: a loop is easy to agree on."""


def read_prompts(path: Path, tokenizer: Any, room: int, limit: int | None) -> list[Ids]:
    """Token ids of the first turns of a JSON-lines file (`turns`, as Spec-Bench has them), up to the answer.

    Args:
        path: one object a line.
        tokenizer: has the chat template that they go through.
        room: the most tokens of a prompt.
        limit: read so many prompts only.

    Raises:
        DataError: missing, malformed, empty or too long; the text names the line.
    """
    if not tokenizer.chat_template:
        raise DataError(f"{path}: prompts need a chat template, and this family's tokenizer has none")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()][:limit]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None
    if not lines:
        raise DataError(f"{path}: holds no prompts")
    return [_prompt(line, f"{path}, line {number}", tokenizer, room) for number, line in enumerate(lines, 1)]


def write_continuations(
    family: FamilyForCausalLM, tokenizer: Any, prompts: Sequence[Ids], cache: Path,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Ids]:  # fmt: skip
    """The last exit's greedy answers to the prompts, up to `MOST` tokens each, an end token included.

    Args:
        family: in evaluation mode.
        tokenizer: has the end token.
        prompts: their token ids.
        cache: folder in which batches are kept, and looked for.
        progress: called with the number of answers that were added.
    """
    model = family.submodel(family.config.granularity)
    what = {"weights": hash_weights(model), "prompts": prompts, "most": MOST, "batch": WRITTEN_AT_ONCE}
    folder = cache / hashlib.sha256(canonical(what)).hexdigest()[:32]
    found: dict[int, Ids] = {}
    for number, batch in enumerate(_batches([len(prompt) for prompt in prompts], WRITTEN_AT_ONCE)):
        path = folder / f"{number}.json"
        if path.is_file():
            answers = json.loads(path.read_text(encoding="utf-8"))
        else:
            with torch.inference_mode():
                answers = continued(model, tokenizer, [prompts[i] for i in batch], MOST, 0.0)
            write_atomic(path, json.dumps(answers))
        found.update(zip(batch, answers, strict=True))
        progress(len(batch))
    return [found[i] for i in range(len(prompts))]


def score_continuations(
    family: FamilyForCausalLM, readings: Sequence[Reading], prompts: Sequence[Ids], answers: Sequence[Ids], path: Path,
    progress: Callable[[int], object] = lambda _: None,
) -> ContinuationScores:  # fmt: skip
    """Score every reading on answers that were written before, each token after the text before it.

    Args:
        family: in evaluation mode.
        readings: what to score, the last exit included.
        prompts: token ids before each answer.
        answers: token ids of each.
        path: the file of the prompts, for the report.
        progress: called with the number of answers that were scored.
    """
    found: dict[Reading, list[Marks]] = {reading: [] for reading in readings}
    repeated = []
    for batch in _batches([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)], SCORED_AT_ONCE):
        texts = [(prompts[i], answers[i]) for i in batch]
        repeated += [repeats(answer) for _, answer in texts]
        with torch.inference_mode():
            for reading, rows in rows_of(family, readings, _padded([p + a for p, a in texts]).to(family.device)):
                found[reading] += [_marks(family, row, *text) for row, text in zip(rows, texts, strict=True)]
        progress(len(batch))
    marks = {reading: joined(parts) for reading, parts in found.items()}
    new = ~np.concatenate(repeated)
    last = marks[readings[-1]]
    grams = sum(max(0, len(answer) - GRAM + 1) for answer in answers)
    return ContinuationScores(
        file=path.name,
        sha256=sha256_file(path),
        prompts=len(prompts),
        tokens=len(last),
        repeats=float((~new).sum()) / max(1, grams),
        loops=sum(map(ends_in_loop, answers)) / len(answers),
        exits=reading_scores(marks),
        fresh=tuple(FreshScore(*key, float((m.top == last.top)[new].mean())) for key, m in marks.items()),
    )


def _prompt(line: str, where: str, tokenizer: Any, room: int) -> Ids:
    try:
        text = json.loads(line)["turns"][0]
    except (ValueError, KeyError, TypeError, IndexError):
        text = None
    if not isinstance(text, str):
        raise DataError(f'{where}: expected an object such as {{"turns": ["a question"]}}')
    turn = [{"role": "user", "content": text}]
    chat = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids: Ids = tokenizer(chat, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) > room:
        raise DataError(f"{where}: {len(ids)} tokens, and the context has room for {room} before an answer")
    return ids


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices, the shortest first: texts of a batch are of much the same length, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _padded(texts: Sequence[Ids]) -> Tensor:
    """(B, T), padded on the right, where causal attention never looks."""
    width = max(map(len, texts))
    return torch.tensor([text + [0] * (width - len(text)) for text in texts])


def _marks(family: FamilyForCausalLM, row: Tensor, prompt: Ids, answer: Ids) -> Marks:
    """Marks of an answer's tokens by an exit's normed rows (T, H) of prompt and answer."""
    first = len(prompt) - 1
    logits = family.head(row[first : first + len(answer)])
    return mark(logits.float().cpu().numpy(), np.array(answer))
