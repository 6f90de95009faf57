"""All graphs of a family, from the builder's graphs of its base and of its branches."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exporter.build import build, quiet
from exporter.cut import branch_exit, plain_exit, segment
from exporter.factors import factored
from exporter.graphs import Part, Piece, Tensor, f32_tensor
from exporter.head import embedding_of, head_of
from exporter.huggingface import save_base, save_branch
from exporter.quantize import quantize
from family.manifest import graph_name
from training.loaded import LoadedFamily

NO_VOCABULARY = ("exclude_embeds=true", "exclude_lm_head=true")
"""Options of the builder for a branch, which shares the base's embedding and head."""


def make_pieces(
    family: LoadedFamily, precisions: Mapping[int, str], scratch: Path, say: Callable[[str], None]
) -> dict[str, Piece]:
    """Every graph of the family by name, segments first, segment g and its exit at `precisions[g]`.

    Hugging Face folders go to `scratch` on the way.
    """
    pieces = f32_pieces(family, scratch, say)
    for name, piece in pieces.items():
        kind, g = name.split("-")
        precision = precisions[int(g)]
        if precision != "f32":
            say(f"quantizing {name}")
            pieces[name] = quantize(piece, 4 if precision == "int4" and kind == "segment" else 8)
    return pieces


def f32_pieces(family: LoadedFamily, scratch: Path, say: Callable[[str], None]) -> dict[str, Piece]:
    """Every graph of the family at f32."""
    spec = family.spec
    say("building the trunk")
    with quiet():
        source = save_base(family, scratch / "base")
    base = build(source, ["exclude_embeds=true"])
    shutil.rmtree(source)
    head = head_of(base)
    embedding = embedding_of(head, family.base.model)
    pieces = {
        graph_name("segment", s.index): segment(base, embedding, s.first_layer, s.last_layer) for s in spec.segments
    }
    for g, exit_ in enumerate(spec.exits, start=1):
        if exit_.branch == "norm":
            piece = plain_exit(base, spec.n_layers, head, own_norm(family, g))
        else:
            say(f"building exit {g}")
            piece = branch_exit(branch_part(family, g, scratch / f"branch-{g}"), head)
        pieces[graph_name("exit", g)] = piece
    return pieces


def own_norm(family: LoadedFamily, g: int) -> Tensor | None:
    """The weight of exit g's own norm; none for the last exit, whose norm is the base's."""
    if g == family.spec.granularity:
        return None
    norm: Any = family.model.branch(g).norm
    return f32_tensor(norm.weight.detach().float().numpy())


def branch_part(family: LoadedFamily, g: int, folder: Path) -> Part:
    """The builder's graph of exit g's branch, a model of one layer."""
    block = family.model.branch(g).block
    assert block is not None
    with quiet():
        save_branch(family, g, folder)
    return factored(build(folder, NO_VOCABULARY), block)
