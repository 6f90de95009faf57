"""Text that a base model writes itself: what its layers see in use, where no text is given to look at."""

from typing import Any

import torch
from torch import Tensor

from training.loaded import LoadedFamily
from training.selftext import drawn

TEXTS, LENGTH = 16, 64
"""As many texts, of so many tokens at most: fewer cost quality, more and longer ones only time."""
SEED = 0


@torch.no_grad()
def own_text(family: LoadedFamily) -> Tensor:
    """Token ids [n, T] that the base samples at temperature 1, each text from the tokenizer's first token on.

    The same for the same base on the same machine. Raises `BaseModelError` if its logits are not numbers.
    """
    model: Any = family.base.model
    generator = torch.Generator().manual_seed(SEED)
    newest = torch.full((TEXTS, 1), first_id(family))
    ids, cache = [newest], None
    for _ in range(min(LENGTH, family.spec.context) - 1):
        found = model(newest, past_key_values=cache, use_cache=True)
        newest, cache = drawn(found.logits[:, -1], 1.0, generator), found.past_key_values
        ids.append(newest)
    return torch.cat(ids, 1)


def first_id(family: LoadedFamily) -> int:
    """The id that a text begins with: the tokenizer's begin of text, or its end of another, or 0."""
    tokenizer: Any = family.base.tokenizer
    return next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)
