"""A base to train from scratch: a preset's trunk with random weights, and the tokenizer of a pretrained model."""

import torch
from transformers import LlamaForCausalLM

from training.base import LoadedBase, hash_weights, load_tokenizer
from training.errors import BaseModelError, DataError
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
    loaded = load_tokenizer(tokenizer)
    if len(loaded) > shape.vocab_size:
        raise DataError(
            f"--preset {preset}: its vocabulary of {shape.vocab_size} is smaller than the tokenizer's {len(loaded)}; "
            "give the tokenizer of another model with --base"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = family_config(shape, bos_token_id=loaded.bos_token_id, eos_token_id=loaded.eos_token_id).decoder
        model = LlamaForCausalLM(config)
    return LoadedBase(model=model.train(False), tokenizer=loaded, id=preset, weights_sha256=hash_weights(model))
