"""A base to train from scratch: a trunk with random weights, and the tokenizer of a pretrained model."""

import torch
from transformers import LlamaForCausalLM

from family.spec import SCRATCH, FamilySpec
from training.base import LoadedBase, hash_weights, load_tokenizer
from training.errors import BaseModelError, DataError
from training.flops import FamilyShape
from training.presets import PRESETS, family_config


def random_base(preset: str, tokenizer: str | None, seed: int) -> LoadedBase:
    """Random weights in a preset's shape.

    Args:
        preset: a name in `training.presets.PRESETS`.
        tokenizer: what `load_base` takes, for its tokenizer.
        seed: decides the weights.

    Raises:
        BaseModelError: no such preset, or the tokenizer cannot be loaded.
        DataError: the tokenizer has more tokens than the preset.
    """
    shape = PRESETS.get(preset)
    if shape is None:
        raise BaseModelError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    return _random(shape, 4096, preset, f"--preset {preset}", tokenizer, seed)


def random_base_of(spec: FamilySpec, tokenizer: str | None, seed: int) -> LoadedBase:
    """Random weights in the shape of a spec whose base is `scratch` or `scratch-untied`.

    Raises:
        BaseModelError: it is no Llama, or the tokenizer cannot be loaded.
        DataError: the tokenizer has more tokens than the spec.
    """
    if spec.architecture != LlamaForCausalLM.__name__:
        raise BaseModelError(
            f"family {spec.name}: only a LlamaForCausalLM begins from scratch, not {spec.architecture}"
        )
    shape = FamilyShape(
        d_model=spec.d_model,
        d_ff=spec.d_ff,
        n_layers=spec.n_layers,
        n_heads=spec.n_heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        tied=spec.base.id == SCRATCH,
        block_vectors=2 * spec.d_model,
        exits=spec.exits,
    )
    return _random(shape, spec.context, spec.base.id, f"family {spec.name}", tokenizer, seed)


def _random(shape: FamilyShape, context: int, name: str, source: str, tokenizer: str | None, seed: int) -> LoadedBase:
    loaded = load_tokenizer(tokenizer)
    if len(loaded) > shape.vocab_size:
        raise DataError(
            f"{source}: its vocabulary of {shape.vocab_size} is smaller than the tokenizer's {len(loaded)}; "
            "give the tokenizer of another model with --base"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ends = {"bos_token_id": loaded.bos_token_id, "eos_token_id": loaded.eos_token_id}
        model = LlamaForCausalLM(family_config(shape, context, **ends).decoder)
    return LoadedBase(model=model.train(False), tokenizer=loaded, id=name, weights_sha256=hash_weights(model))
