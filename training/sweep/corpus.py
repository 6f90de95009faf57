"""A sweep's texts: a small byte-level BPE fitted to the training text, token files, and windows in a seed's order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from family.files import sha256_file, write_atomic
from training.data.documents import Ids, eval_ids, iter_documents
from training.data.sources import Source
from training.data.tokens import TokenFile, tokenize, tokenizer_sha256
from training.data.windows import Windows
from training.errors import DataError
from training.sweep.design import Texts
from training.sweep.errors import SweepError
from training.sweep.plan import CorpusFacts, HeldOutFacts

TOKENIZER_NAME = "tokenizer.json"
END = "<|end|>"
CHAT = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}{{ eos_token }}"
"""Questions and answers as plain text: nobody will chat with these models."""


@dataclass(frozen=True)
class Corpus:
    """The texts of a sweep as token ids."""

    facts: CorpusFacts
    train: tuple[TokenFile, ...]
    held_out: tuple[Ids, ...]

    def windows(self, window: int, length: int, seed: int) -> Windows:
        """`length` training windows in the order of a seed; every text is gone through equally often."""
        return Windows(self.train, [t.header.tokens for t in self.train], window=window, length=length, seed=seed)


def fit_tokenizer(texts: Texts, data: Path, folder: Path) -> None:
    """Fit a byte-level BPE to the training texts and write it to a sweep folder.

    Raises:
        DataError: a text is missing, empty or malformed, or too small for that many tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    reader = _wrapped(tokenizer)
    documents = (d.text.replace(END, "") for s in _sources(texts.train, data) for d in iter_documents(s, reader))
    trainer = trainers.BpeTrainer(
        vocab_size=texts.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if tokenizer.get_vocab_size() != texts.vocab_size:
        raise DataError(
            f"texts.vocab_size {texts.vocab_size}: the training text gives {tokenizer.get_vocab_size()} tokens at "
            "most; give more text, or lower it"
        )
    write_atomic(folder / TOKENIZER_NAME, tokenizer.to_str())


def load_corpus(texts: Texts, data: Path, folder: Path, cache: Path) -> Corpus:
    """Tokenize a sweep's texts with its folder's tokenizer, or map what `cache` has of them.

    Raises:
        DataError: a text is missing, empty or malformed, or a token file is damaged.
        SweepError: the folder has no tokenizer.
    """
    tokenizer = _tokenizer(folder)
    train = tuple(tokenize(source, tokenizer, cache) for source in _sources(texts.train, data))
    held_out = tuple(eval_ids(data / name, tokenizer, texts.held_out_tokens) for name in texts.held_out)
    facts = CorpusFacts(
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        train_sha256=tuple(part.header.source_sha256 for part in train),
        unique_tokens=sum(part.header.tokens for part in train),
        held_out=tuple(
            HeldOutFacts(name, sha256_file(data / name), len(ids), round(_bytes(tokenizer, ids) / len(ids), 4))
            for name, ids in zip(texts.held_out, held_out, strict=True)
        ),
    )
    return Corpus(facts, train, held_out)


def batch_of(windows: Windows, step: int, batch: int) -> torch.Tensor:
    """Token ids (batch, window) of a step, counted from 0."""
    ids = [torch.from_numpy(windows[k]["input_ids"]) for k in range(step * batch, (step + 1) * batch)]
    return torch.stack(ids)


def _sources(names: tuple[str, ...], data: Path) -> list[Source]:
    return [Source(str(data / name)) for name in names]


def _tokenizer(folder: Path) -> Any:
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise SweepError(f"{path}: no such file; write it with: sweep-family plan {folder}")
    return _wrapped(Tokenizer.from_file(str(path)))


def _wrapped(tokenizer: Tokenizer) -> Any:
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, eos_token=END, chat_template=CHAT)


def _bytes(tokenizer: Any, ids: Ids) -> int:
    """Bytes of text that the ids stand for; an end counts none."""
    kept = [int(i) for i in ids if i != tokenizer.eos_token_id]
    return len(tokenizer.decode(kept, clean_up_tokenization_spaces=False).encode())
