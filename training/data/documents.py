"""Sources to documents, and documents to token ids."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.detokenise import detokenise, heading_level, looks_tokenised, wikitext_articles
from training.data.sources import DATASET, Source, dataset_rows, parquet_rows
from training.errors import DataError

Ids = NDArray[np.int64]
FIELDS = ("ids", "text", "messages", "question", "answer")
"""What a record's document is made of, in this order of preference."""
ENCODED_AT_ONCE = 64
"""Documents per call of the tokenizer, which spreads them over the cores."""
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Document:
    """One text; `closed` where it ends itself (a chat), so that no end-of-text token is added."""

    text: str
    closed: bool = False
    ids: tuple[int, ...] = ()
    """Token ids in place of the text."""


def read_documents(path: Path, tokenizer: Any) -> list[Document]:
    """The documents of a file, as `iter_documents` gives them."""
    return list(iter_documents(Source(str(path)), tokenizer))


def iter_documents(source: Source, tokenizer: Any) -> Iterator[Document]:
    """The documents of a source, in order.

    `.jsonl`, `.parquet` and data sets: one per record, from `text`; from `messages`, or `question` and `answer`,
    through the tokenizer's chat template (with GSM8K's `<<...>>` calculator notes removed); or from `ids`, token ids
    that a model of this tokenizer wrote. Anything else is UTF-8 text: WikiText by its headings (an article each,
    detokenised, sentences with `<unk>` dropped), one document per line where there are no blank lines, else one
    document; detokenised where most commas stand apart.

    Raises:
        DataError: missing, not UTF-8, malformed, or without any text; the text names the file and line.
    """
    empty = True
    for document in _found(source, tokenizer):
        if document.ids or document.text.strip():
            empty = False
            yield document
    if empty:
        raise DataError(f"{source.ref}: holds no text")


def _found(source: Source, tokenizer: Any) -> Iterator[Document]:
    if source.ref.startswith(DATASET):
        return _record_documents(source.ref, "row", enumerate(dataset_rows(source.ref, FIELDS.__contains__)), tokenizer)
    path = source.path
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        return _record_documents(source.ref, "row", enumerate(parquet_rows(path, FIELDS.__contains__)), tokenizer)
    if path.suffix == ".jsonl":
        return _record_documents(source.ref, "line", _json_lines(path), tokenizer)
    return _text_documents(path)


def _text_documents(path: Path) -> Iterator[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None
    lines = text.split("\n")
    if heading_level(next((line for line in lines if line.strip()), "")) == 1:
        yield from map(Document, wikitext_articles(text))
        return
    clean: Callable[[str], str] = detokenise if looks_tokenised(text) else str
    if any(not line.strip() for line in text.strip().split("\n")):
        yield Document("\n".join(clean(line) for line in lines))
    else:
        yield from (Document(clean(line)) for line in lines)


def _json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """Values with their line numbers; only newlines end a line."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError as error:
                        raise DataError(f"{path}, line {number}: not JSON ({error})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None


def _record_documents(ref: str, unit: str, records: Iterable[tuple[int, object]], tokenizer: Any) -> Iterator[Document]:
    for number, record in records:
        where = f"{ref}, {unit} {number}"
        document = record_document(record if isinstance(record, Mapping) else {}, where, tokenizer)
        try:
            document.text.encode()
        except UnicodeEncodeError:  # JSON can write what no text file holds
            raise DataError(f"{where}: half of a surrogate pair (\\ud800..\\udfff) is no character") from None
        yield document


def record_document(record: Mapping[str, object], where: str, tokenizer: Any) -> Document:
    """The document of one record. Raises `DataError` that begins with `where`."""
    ids, text, messages, question, answer = (record.get(field) for field in FIELDS)
    if isinstance(ids, list):
        return Document("", closed=True, ids=_checked_ids(ids, where, tokenizer))
    if isinstance(text, str):
        return Document(text)
    if isinstance(question, str) and isinstance(answer, str):
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": _CALCULATOR.sub("", answer)},
        ]
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise DataError(
            f"{where}: expected an object with `text`, `question` and `answer`, `messages` (objects with `role` and "
            "`content`) or `ids`"
        )
    if not tokenizer.chat_template:
        raise DataError(f"{where}: chats need a chat template, and this base's tokenizer has none")
    try:
        return Document(str(tokenizer.apply_chat_template(messages, tokenize=False)), closed=True)
    except Exception as error:  # what templates raise has no common base
        raise DataError(f"{where}: a chat that the base's chat template does not take ({error})") from error


def _is_message(message: object) -> bool:
    return isinstance(message, Mapping) and all(isinstance(message.get(field), str) for field in ("role", "content"))


def _checked_ids(ids: list[object], where: str, tokenizer: Any) -> tuple[int, ...]:
    for id_ in ids:
        if type(id_) is not int or not 0 <= id_ < len(tokenizer):
            raise DataError(
                f"{where}: `ids` has {id_!r}, expected token ids below {len(tokenizer)}, the tokenizer's size"
            )
    return tuple(ids)  # type: ignore[arg-type]


def encode(documents: Iterable[Document], tokenizer: Any) -> Iterator[Ids]:
    """Token ids of each document, as a served text has them, with the end-of-text id after it.

    A document that is closed has no end added, and no beginning: its chat template wrote them. Others begin with the
    begin-of-text id where the tokenizer puts it before a text. Raises `DataError` if there is no end-of-text token.
    """
    start = _start_ids(tokenizer)
    remaining = iter(documents)
    while group := list(itertools.islice(remaining, ENCODED_AT_ONCE)):
        texts = [document.text for document in group]
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for document, found in zip(group, encoded, strict=True):
            ids = document.ids or found
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
    first: list[int] = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def eval_ids(path: Path, tokenizer: Any, tokens: int) -> Ids:
    """The first `tokens` ids (fewer if the file is shorter) of a held-out file, documents in file order."""
    parts: list[Ids] = []
    total = 0
    for ids in encode(iter_documents(Source(str(path)), tokenizer), tokenizer):
        parts.append(ids)
        total += len(ids)
        if total >= tokens:
            break
    return np.concatenate(parts)[:tokens]


def held_out_ids(path: Path, tokenizer: Any, tokens: int, window: int, vocab_size: int) -> Ids:
    """Ids as `eval_ids` gives them, for a model of `vocab_size` that reads windows of `window` tokens.

    Raises:
        DataError: the file is missing, malformed or shorter than a window, or has an id that the model does not know.
    """
    ids = eval_ids(path, tokenizer, tokens)
    if len(ids) <= window:
        raise DataError(f"{path}: {len(ids)} tokens, fewer than one window of {window} and its target")
    check_vocabulary(path.name, int(ids.max()), vocab_size)
    return ids


def check_vocabulary(name: str, max_id: int, vocab_size: int) -> None:
    """Raise `DataError` if a text's largest id is one that a model of `vocab_size` has no embedding for."""
    if max_id >= vocab_size:
        raise DataError(
            f"{name}: its token id {max_id} is outside the model's vocabulary of {vocab_size}; tokenizer and model do "
            "not belong together"
        )
