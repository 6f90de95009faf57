"""Text to training windows: sources of documents, their token ids on disk, and the order in which a run sees them.

`sources` says what a source is, `documents` reads it, `tokens` keeps its ids in a memory-mapped file, and `windows`
mixes them: which window comes when is a pure function of the seed and the window's number.
"""

from training.data.documents import Document, Ids, encode, eval_ids, held_out_ids, read_documents
from training.data.sources import Source, parse_source
from training.data.tokens import TokenFile, tokenize
from training.data.windows import SourceUse, Windows, open_windows

__all__ = [
    "Document",
    "Ids",
    "Source",
    "SourceUse",
    "TokenFile",
    "Windows",
    "encode",
    "eval_ids",
    "held_out_ids",
    "open_windows",
    "parse_source",
    "read_documents",
    "tokenize",
]
