"""What the manifest says of a bundle: its graphs and their files, the family's hashes, the ids that end a text."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from exporter.errors import ExportError
from exporter.graphs import Piece
from family.files import sha256_file
from family.manifest import CHAT_TEMPLATE_NAME, TOKENIZER_NAME, Graph, Hashes
from relay.node.template import chat_template, render_chat
from training.checkpoint import branch_path, save_family
from training.loaded import LoadedFamily

END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>")
"""Tokens that end a text wherever a vocabulary has them."""
GREETING = ({"role": "user", "content": "Hello"},)


def describe(pieces: Mapping[str, Piece], precisions: Mapping[int, str], folder: Path) -> tuple[Graph, ...]:
    """The manifest's entry of every graph, with the files that it needs; segment g and its exit at `precisions[g]`."""
    graphs = []
    for name, piece in pieces.items():
        kind, g = name.split("-")
        files = needed_files(folder / f"{name}.onnx")
        graphs.append(Graph(kind, int(g), precisions[int(g)], piece.kv_layers, files))
    return tuple(graphs)


def needed_files(path: Path) -> tuple[str, ...]:
    """An ONNX file's name and those of the data files that it refers to."""
    graph = onnx.load(str(path), load_external_data=False).graph
    locations = {entry.value for t in graph.initializer for entry in t.external_data if entry.key == "location"}
    return (path.name, *sorted(locations))


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's one-file form, and its chat template where it has one."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        tokenizer.save_pretrained(scratch)
        for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME):
            if (Path(scratch) / name).is_file():
                shutil.move(Path(scratch) / name, folder / name)
    if not (folder / TOKENIZER_NAME).is_file():
        raise ExportError("the base's tokenizer has no fast form (tokenizer.json); give a base that has one")


def special_tokens(tokenizer: Any) -> dict[str, str]:
    """The texts of the tokenizer's special tokens by their names: `bos_token`, `eos_token`, ..."""
    return {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}


def check_template(folder: Path, special: Mapping[str, str]) -> None:
    """Render the chat template in `folder`, if one is there, as a node does. Raises `ExportError` if it fails."""
    path = folder / CHAT_TEMPLATE_NAME
    if not path.is_file():
        return
    try:
        render_chat(chat_template(path.read_text(encoding="utf-8")), GREETING, special)
    except Exception as error:  # a template is a program, and fails as it likes
        raise ExportError(
            f"the base's chat template does not render ({type(error).__name__}: {error}); correct "
            f"{CHAT_TEMPLATE_NAME} in the base's folder and give it with --base"
        ) from error


def family_hashes(family: LoadedFamily, folder: Path, scratch: Path) -> Hashes:
    """Hashes of the base, of each branch as a family folder holds it, and of the tokenizer in `folder`."""
    save_family(family, scratch)
    branches = [branch_path(scratch, g) for g in range(1, family.spec.granularity + 1)]
    return Hashes(
        base=family.base.weights_sha256,
        branches=tuple(sha256_file(path) if path.is_file() else "" for path in branches),
        tokenizer=sha256_file(folder / TOKENIZER_NAME),
    )


def stop_ids(family: LoadedFamily) -> tuple[int, ...]:
    """Ids that end a text: the model's own, the tokenizer's, and the usual ends of a chat turn."""
    model: Any = family.base.model
    tokenizer: Any = family.base.tokenizer
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update([value] if isinstance(value, int) else value or [])
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary[token] for token in END_TOKENS if token in vocabulary)
    return tuple(sorted(found))
