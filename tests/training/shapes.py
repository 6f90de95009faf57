"""Tiny random families of every decoder that can be a trunk."""

from typing import Any

import torch
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from family.spec import Exit
from training.config import FamilyConfig
from training.modeling import FamilyForCausalLM

VOCAB = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN_SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}

EXITS = (Exit(1, "norm"), Exit(2, "block"), Exit(3, "lowrank", 12), Exit(4, "norm"))
"""One exit of every kind."""


def decoders() -> dict[str, PretrainedConfig]:
    """A config of every supported shape, with full and sliding attention."""
    qwen2 = {name: value for name, value in SHAPE.items() if name != "head_dim"}
    return {
        "llama": LlamaConfig(**SHAPE),
        "llama-tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
        "qwen2": Qwen2Config(**qwen2, tie_word_embeddings=True),
        "qwen2-sliding": Qwen2Config(**qwen2, **QWEN_SLIDING),
        "qwen3": Qwen3Config(**SHAPE),
        "qwen3-sliding": Qwen3Config(**SHAPE, **QWEN_SLIDING, tie_word_embeddings=True),
        "mistral": MistralConfig(**SHAPE, sliding_window=None),
        "mistral-sliding": MistralConfig(**SHAPE, sliding_window=5),
    }


def random_family(
    decoder: PretrainedConfig, exits: tuple[Exit, ...] = EXITS, seed: int = 0, **config: Any
) -> FamilyForCausalLM:
    """A family with every parameter far from its initial value, so that whatever is left out is noticed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        family = FamilyForCausalLM(FamilyConfig(decoder=decoder, exits=exits, **config)).eval()
        with torch.no_grad():
            for name, parameter in family.named_parameters():
                around = 1.0 if "norm" in name else 0.0
                spread = 0.3 if parameter.ndim == 1 else 1.0 / parameter.shape[-1] ** 0.5
                parameter.copy_(around + spread * torch.randn(parameter.shape))
    return family


def random_ids(windows: int = 3, length: int = 16, seed: int = 0) -> torch.Tensor:
    """Token ids (windows, length)."""
    return torch.randint(3, VOCAB, (windows, length), generator=torch.Generator().manual_seed(seed))
