"""Text files to windows of token ids: documents, tokens, windows, in an order that only the seed decides."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from family.files import sha256_file
from training.detokenise import detokenise, heading_level, looks_tokenised, wikitext_articles
from training.errors import DataError

Ids = NDArray[np.int64]
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Source:
    """A text file and its weight in the mix."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class SourceUse:
    """What a run took from a source."""

    file: str
    sha256: str
    documents: int
    tokens: int
    passes: float
    """How often its text was gone through: below 1 where only a part was needed."""


@dataclass(frozen=True)
class Document:
    """One text; `closed` where it ends itself (a chat), so that no end-of-text token is added."""

    text: str
    closed: bool = False


def parse_source(argument: str) -> Source:
    """`FILE` or `FILE=WEIGHT`. Raises `DataError` for a weight that is not a positive number."""
    name, separator, weight = argument.rpartition("=")
    if not separator or Path(argument).exists():
        return Source(Path(argument))
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise DataError(f"{argument}: expected FILE or FILE=WEIGHT with a positive number, for example {name}=0.5")
    return Source(Path(name), value)


def read_documents(path: Path, tokenizer: Any) -> list[Document]:
    """The documents of a text file.

    `.jsonl`: one per line, from `text`, or from `question` and `answer` through the tokenizer's chat template (with
    GSM8K's `<<...>>` calculator notes removed). Anything else is UTF-8 text: WikiText by its headings (an article each,
    detokenised, sentences with `<unk>` dropped), one document per line where there are no blank lines, else one
    document; detokenised where most commas stand apart.

    Raises:
        DataError: missing, not UTF-8, malformed, or without any text; the text names the file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None
    found = _jsonl_documents(path, text, tokenizer) if path.suffix == ".jsonl" else _text_documents(text)
    documents = [d for d in found if d.text.strip()]
    if not documents:
        raise DataError(f"{path}: holds no text")
    return documents


def _text_documents(text: str) -> list[Document]:
    lines = text.split("\n")
    if heading_level(next((line for line in lines if line.strip()), "")) == 1:
        return [Document(article) for article in wikitext_articles(text)]
    clean: Callable[[str], str] = detokenise if looks_tokenised(text) else str
    if any(not line.strip() for line in text.strip().split("\n")):
        return [Document("\n".join(clean(line) for line in lines))]
    return [Document(clean(line)) for line in lines]


def _jsonl_documents(path: Path, text: str, tokenizer: Any) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None
        fields = record if isinstance(record, dict) else {}
        if isinstance(fields.get("text"), str):
            yield Document(fields["text"])
        elif isinstance(fields.get("question"), str) and isinstance(fields.get("answer"), str):
            yield Document(_chat(fields["question"], fields["answer"], path, tokenizer), closed=True)
        else:
            raise DataError(f"{path}, line {number}: expected an object with `text`, or `question` and `answer`")


def _chat(question: str, answer: str, path: Path, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise DataError(f"{path}: questions and answers need a chat template, and this base's tokenizer has none")
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _CALCULATOR.sub("", answer)},
    ]
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


def encode(documents: Sequence[Document], tokenizer: Any) -> Iterator[Ids]:
    """Token ids of each document, as a served text has them, with the end-of-text id after it.

    A document that is closed has no end added, and no beginning: its chat template wrote them. Others begin with the
    begin-of-text id where the tokenizer puts it before a text. Raises `DataError` if there is no end-of-text token.
    """
    start = _start_ids(tokenizer)
    for document in documents:
        ids = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
        if not document.closed:
            if tokenizer.eos_token_id is None:
                raise DataError(
                    "the base's tokenizer has no end-of-text token to put between documents; "
                    "set eos_token in its tokenizer_config.json"
                )
            ids = [*start, *ids, tokenizer.eos_token_id]
        yield np.array(ids, dtype=np.int64)


def _start_ids(tokenizer: Any) -> list[int]:
    """The begin-of-text id where the tokenizer's own encoding puts it first, else nothing."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def eval_ids(path: Path, tokenizer: Any, tokens: int) -> Ids:
    """The first `tokens` ids (fewer if the file is shorter) of a held-out file, documents in file order."""
    parts: list[Ids] = []
    total = 0
    for ids in encode(read_documents(path, tokenizer), tokenizer):
        parts.append(ids)
        total += len(ids)
        if total >= tokens:
            break
    return np.concatenate(parts)[:tokens]


def mix(
    sources: Sequence[Source], tokenizer: Any, n_windows: int, window: int, seed: int
) -> tuple[Ids, list[SourceUse]]:
    """Training windows (n_windows, window) from all sources by weight, in an order that only the seed decides.

    Each source's documents are shuffled, encoded, put one after another and cut; a source that is too short for its
    share is gone through again in another order. Then the windows of all sources are shuffled together.

    Raises:
        DataError: a source is missing, malformed, empty, or shorter than one window.
    """
    total = sum(source.weight for source in sources)
    edges = np.cumsum([0.0, *(source.weight / total for source in sources)])
    counts = np.diff(np.rint(edges * n_windows).astype(int))
    parts: list[Ids] = []
    uses: list[SourceUse] = []
    for index, (source, count) in enumerate(zip(sources, counts.tolist(), strict=True)):
        windows, use = _source_windows(source, tokenizer, count, window, np.random.default_rng([seed, index]))
        parts.append(windows)
        uses.append(use)
    windows = np.concatenate(parts)
    return windows[np.random.default_rng(seed).permutation(len(windows))], uses


def _source_windows(
    source: Source, tokenizer: Any, count: int, window: int, rng: np.random.Generator
) -> tuple[Ids, SourceUse]:
    documents = read_documents(source.path, tokenizer)
    wanted = count * window
    parts: list[Ids] = []
    total = used = 0
    while total < wanted:
        before = total
        for ids in encode([documents[i] for i in rng.permutation(len(documents))], tokenizer):
            parts.append(ids)
            total, used = total + len(ids), used + 1
            if total >= wanted:
                break
        else:
            if total - before < window:
                raise DataError(f"{source.path}: {total - before} tokens, fewer than one window of {window}")
    flat = np.concatenate([*parts, np.zeros(0, np.int64)])[:wanted]
    use = SourceUse(source.path.name, sha256_file(source.path), used, wanted, round(used / len(documents), 3))
    return flat.reshape(count, window), use
