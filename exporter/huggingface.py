"""Writes what the model builder reads: plain Hugging Face folders of the base, and of a branch as a one-layer model."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from exporter.errors import ExportError
from exporter.factors import without_factors
from training.config import attention_types
from training.loaded import LoadedFamily

ROPE_TYPES = ("default", "llama3")
"""Those whose angles do not depend on the length of the context."""
PLACEHOLDER_VOCAB = 8
"""Rows of the embedding of a branch's model, which its graph leaves out."""


def save_base(family: LoadedFamily, folder: Path) -> Path:
    """The whole base model. Its position tables get a row more than the context, for attention's dummy row."""
    family.base.model.save_pretrained(folder)
    family.base.tokenizer.save_pretrained(folder)
    _complete(folder, family.spec.context + 1, attention_types(family.base.model.config))
    return folder


def save_branch(family: LoadedFamily, g: int, folder: Path) -> Path:
    """Exit g's branch as a standard model of one layer: its block and its norm, with a placeholder for an embedding."""
    base: Any = family.base.model
    branch = family.model.branch(g)
    assert branch.block is not None
    config = copy.deepcopy(base.config)
    config.num_hidden_layers, config.vocab_size = 1, PLACEHOLDER_VOCAB
    config.layer_types = [attention_types(base.config)[branch.exit.layer]]
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    with torch.device("meta"):
        model: Any = type(base)(config)
    model.model.embed_tokens = torch.nn.Embedding(PLACEHOLDER_VOCAB, config.hidden_size)
    model.lm_head = torch.nn.Linear(config.hidden_size, PLACEHOLDER_VOCAB, bias=False)
    model.tie_weights()
    model.model.layers = torch.nn.ModuleList([without_factors(branch.block)])
    model.model.norm = branch.norm
    model.save_pretrained(folder)
    family.base.tokenizer.save_pretrained(folder)
    _complete(folder, family.spec.context + 1, config.layer_types)
    return folder


def _complete(folder: Path, positions: int, layer_types: Sequence[str]) -> None:
    """Set the size of the position tables, and each layer's type of attention, which Mistral's config does not list."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if rope not in ROPE_TYPES:
        raise ExportError(
            f"the base's rope type {rope!r} is not supported; give a base with one of {', '.join(ROPE_TYPES)}"
        )
    config |= {"max_position_embeddings": positions, "layer_types": list(layer_types)}
    path.write_text(json.dumps(config), encoding="utf-8")
