"""Writes a bundle: builds and cuts the graphs, checks them against PyTorch, and puts them in place as a whole."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.build import build, quiet
from exporter.cut import branch_exit, last_exit, segment
from exporter.errors import ExportError
from exporter.graphs import Piece
from exporter.head import embed_from, head_of
from exporter.huggingface import save_base, save_branch
from exporter.onnxfile import write_graphs
from exporter.parity import check
from family.files import sha256_file
from family.manifest import (
    CHAT_TEMPLATE_NAME,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    TOKENIZER_NAME,
    FileEntry,
    Graph,
    Hashes,
    Manifest,
    default_tiers,
    graph_name,
    save_manifest,
)
from training.checkpoint import branch_path, save_family
from training.model import FamilyModel

PRECISIONS = ("f32", "int4")
TOOLS = ("onnxruntime", "onnxruntime-genai", "torch", "transformers")
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>")
"""Tokens that end a text wherever a vocabulary has them."""


def export(
    family: FamilyModel, tokenizer: Any, out: Path, precision: str, say: Callable[[str], None] = lambda _: None
) -> Manifest:
    """Write the family as a bundle to the directory `out`, replacing a bundle that is there.

    Args:
        family: the family, on its base model.
        tokenizer: the base's Hugging Face tokenizer.
        out: the bundle's directory; it appears whole, or not at all.
        precision: one of `PRECISIONS`.
        say: told what is being done, for a progress line.

    Raises:
        ExportError: `out` holds something else, the model is not supported, or a graph is too far from PyTorch.
    """
    check_target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        pieces = make_pieces(family, tokenizer, precision, Path(scratch), say)
        say("writing the graphs")
        write_graphs(pieces, family.spec, folder)
        write_tokenizer(tokenizer, folder)
        hashes = family_hashes(family, folder, Path(scratch) / "family")
        say("comparing with PyTorch")
        graphs = describe(pieces, precision, folder)
        manifest = Manifest(
            schema_version=MANIFEST_VERSION,
            spec=family.spec,
            hashes=hashes,
            stop_ids=stop_ids(family, tokenizer),
            tiers=default_tiers(family.spec.granularity),
            graphs=graphs,
            files={path.name: FileEntry(path.stat().st_size, sha256_file(path)) for path in sorted(folder.iterdir())},
            parity=check(folder, graphs, family, tokenizer),
            tools={name: importlib.metadata.version(name) for name in TOOLS},
        )
        save_manifest(manifest, folder)
        put_in_place(folder, out)
    return manifest


def make_pieces(
    family: FamilyModel, tokenizer: Any, precision: str, scratch: Path, say: Callable[[str], None]
) -> dict[str, Piece]:
    """Every graph of the family, by name."""
    spec = family.spec
    say("building the base's graph")
    with quiet():
        source = save_base(family, tokenizer, scratch / "base")
    base = build(source, "fp32", {})
    shutil.rmtree(source)
    head = head_of(base)
    base = embed_from(base, head)
    pieces = {graph_name("segment", s.index): segment(base, s.first_layer, s.last_layer) for s in spec.segments}
    for g in range(1, spec.granularity):
        say(f"building the branch of exit {g}")
        with quiet():
            source = save_branch(family, g, tokenizer, scratch / f"branch-{g}")
        branch = build(source, "fp32", {"exclude_embeds": True, "exclude_lm_head": True})
        pieces[graph_name("exit", g)] = branch_exit(branch, head)
    pieces[graph_name("exit", spec.granularity)] = last_exit(base, spec.n_layers, head)
    return pieces


def describe(pieces: dict[str, Piece], precision: str, folder: Path) -> tuple[Graph, ...]:
    """The manifest's entry of every graph, with the files that it needs."""
    graphs = []
    for name, piece in pieces.items():
        kind, index = name.split("-")
        graphs.append(Graph(kind, int(index), precision, piece.kv_layers, data_files(folder / f"{name}.onnx")))
    return tuple(graphs)


def data_files(path: Path) -> tuple[str, ...]:
    """An ONNX file's name and those of the data files that it refers to."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    locations = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    return (path.name, *sorted(locations))


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's one-file form, and its chat template where it has one."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tokenizer.save_pretrained(scratch)
        for name in (TOKENIZER_NAME, CHAT_TEMPLATE_NAME):
            if (Path(scratch) / name).is_file():
                shutil.move(Path(scratch) / name, folder / name)
    if not (folder / TOKENIZER_NAME).is_file():
        raise ExportError("the base's tokenizer has no fast form (tokenizer.json); convert it first")


def family_hashes(family: FamilyModel, folder: Path, scratch: Path) -> Hashes:
    """Hashes of the base, of each branch as a family folder holds it, and of the tokenizer."""
    save_family(family, scratch)
    branches = [branch_path(scratch, g) for g in range(1, family.spec.granularity + 1)]
    return Hashes(
        base=family.base.weights_sha256,
        branches=tuple(sha256_file(path) if path.is_file() else "" for path in branches),
        tokenizer=sha256_file(folder / TOKENIZER_NAME),
    )


def stop_ids(family: FamilyModel, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a text: the model's own, the tokenizer's, and the usual ends of a chat turn."""
    model: Any = family.base.model
    found: set[int] = set()
    for value in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        found.update([value] if isinstance(value, int) else value or [])
    vocabulary = tokenizer.get_vocab()
    found.update(vocabulary[token] for token in END_TOKENS if token in vocabulary)
    return tuple(sorted(found))


def check_target(out: Path) -> None:
    """Refuse to replace anything that is not a bundle."""
    if out.is_dir() and (not any(out.iterdir()) or (out / MANIFEST_NAME).is_file()):
        return
    if out.exists():
        raise ExportError(f"{out}: exists and is not a bundle; give another directory or remove it")


def put_in_place(folder: Path, out: Path) -> None:
    """Move the finished bundle to `out`; what was there goes only when the new one is complete."""
    folder.chmod(0o755)
    old = folder.parent / "replaced"
    if out.exists():
        out.rename(old)
    folder.rename(out)
