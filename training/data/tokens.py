"""A source's token ids in a memory-mapped file: tokenized once, kept under its content's hash.

A token file is a folder `<key>` with `header.json` and `ids.bin` (little-endian uint16, uint32 for large
vocabularies), renamed into place when it is whole. The key is a hash of the source's content and the tokenizer, so
another run, another process or a resumed run finds it. Several processes that want the same file wait for the one that
writes it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from family.files import write_atomic
from family.strict import FieldError, canonical, dumps, from_json
from training.data.documents import Ids, encode, iter_documents
from training.data.sources import DATASET, Source, fingerprint
from training.errors import DataError

TOKENS_VERSION = 1
"""Goes up when the same source would give other ids."""
HEADER_NAME = "header.json"
IDS_NAME = "ids.bin"


@dataclass(frozen=True)
class Header:
    """What is known about a token file."""

    schema_version: int
    source_sha256: str
    tokenizer_sha256: str
    dtype: str
    documents: int
    tokens: int
    longest_document: int
    """Tokens of it."""
    max_id: int


@dataclass(frozen=True)
class TokenFile:
    """The ids of all documents of a source, one after another."""

    name: str
    """The source's, for reports."""
    header: Header
    ids: NDArray[np.uint16] | NDArray[np.uint32]
    """(header.tokens,), memory-mapped."""

    def window(self, start: int, length: int) -> Ids:
        """`length` ids from `start` on; after the last comes the first."""
        stop = start + length
        ids = self.ids[start:stop]
        if stop > len(self.ids):
            ids = np.concatenate([ids, self.ids[: stop - len(self.ids)]])
        return ids.astype(np.int64)


def tokenize(source: Source, tokenizer: Any, folder: Path) -> TokenFile:
    """The token file of a source in `folder`, written if it is not there yet.

    Raises:
        DataError: the source is missing, malformed or empty, its file in `folder` is damaged, or there is no room.
    """
    content, vocabulary = fingerprint(source), tokenizer_sha256(tokenizer)
    kind = DATASET if source.ref.startswith(DATASET) else source.path.suffix  # decides how content is read
    identity = {"version": TOKENS_VERSION, "kind": kind, "source": content, "tokenizer": vocabulary}
    target = folder / hashlib.sha256(canonical(identity)).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not target.is_dir():
                _write(source, tokenizer, target, (content, vocabulary))
    except OSError as error:
        raise DataError(
            f"{folder}: the tokens of {source.ref} cannot be kept there ({error.strerror or error}); "
            "make room, or set FAMILIAL_CACHE to another folder"
        ) from error
    return open_tokens(target, source.name)


def open_tokens(folder: Path, name: str) -> TokenFile:
    """Map a token file, the source of which is called `name`. Raises `DataError` if it is damaged."""
    try:
        header = from_json(Header, json.loads((folder / HEADER_NAME).read_text(encoding="utf-8")))
        ids = np.memmap(folder / IDS_NAME, dtype=np.dtype(header.dtype), mode="r")
    except (OSError, ValueError, FieldError, TypeError) as error:
        raise DataError(f"{folder}: a damaged token file ({error}); delete that folder") from error
    if len(ids) != header.tokens:
        raise DataError(f"{folder}: {len(ids)} tokens, its header says {header.tokens}; delete that folder")
    return TokenFile(name, header, ids)


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of all that decides which ids a tokenizer gives a text or a chat."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    what = {
        "tokenizer": fast.to_str() if fast is not None else sorted(tokenizer.get_vocab().items()),
        "class": type(tokenizer).__name__,
        "begin": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "chat": tokenizer.chat_template,
    }
    return hashlib.sha256(canonical(what)).hexdigest()


def _write(source: Source, tokenizer: Any, target: Path, hashes: tuple[str, str]) -> None:
    """Tokenize into a temporary folder and rename it to `target`."""
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        dtype = np.dtype("<u2" if max(tokenizer.get_vocab().values()) < 1 << 16 else "<u4")
        with (
            tqdm(desc=f"tokenizing {source.name}", unit="tok", unit_scale=True, disable=None) as bar,
            (scratch / IDS_NAME).open("wb") as file,
        ):
            documents, tokens, longest, max_id = _write_ids(source, tokenizer, dtype, file.write, bar.update)
            file.flush()
            os.fsync(file.fileno())
        header = Header(TOKENS_VERSION, *hashes, dtype.str, documents, tokens, longest, max_id)
        write_atomic(scratch / HEADER_NAME, dumps(header))
        scratch.chmod(0o755)
        scratch.replace(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write_ids(
    source: Source,
    tokenizer: Any,
    dtype: np.dtype[Any],
    write: Callable[[bytes], object],
    progress: Callable[[int], object],
) -> tuple[int, int, int, int]:
    """(documents, tokens, tokens of the longest document, largest id)."""
    documents = tokens = longest = max_id = 0
    for ids in encode(iter_documents(source, tokenizer), tokenizer):
        write(ids.astype(dtype).tobytes())
        documents, tokens, longest = documents + 1, tokens + len(ids), max(longest, len(ids))
        max_id = max(max_id, int(ids.max(initial=0)))
        progress(len(ids))
    return documents, tokens, longest, max_id
