"""The family loss is the mean of the sub-models' losses and its gradient the mean of theirs, whatever trains."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from family.spec import Exit
from tests.training.shapes import EXITS, VOCAB, decoders, random_family, random_ids
from training import headloss, loss
from training.modeling import FamilyForCausalLM
from training.objective import Objective, Progress

EXACT = {"rtol": 1e-9, "atol": 1e-12}
LABELS = random_ids(seed=1)
LABELS[0, 3:7] = LABELS[2, -1] = -100
IDS = random_ids()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that divide neither the positions nor each other, and more than one group of windows."""
    monkeypatch.setitem(headloss.MATMUL_LOGITS, "cpu", 7 * VOCAB)
    monkeypatch.setitem(headloss.CACHED_LOGITS, "cpu", 3 * VOCAB)
    monkeypatch.setitem(loss.GROUP_TOKENS, "cpu", 2 * IDS.shape[1])


def gradients(value: Tensor, family: nn.Module) -> dict[str, Tensor]:
    """d value / d parameter by name."""
    names, parameters = zip(*((n, p) for n, p in family.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


def ce(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten(), ignore_index=-100)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3-sliding"])
@pytest.mark.parametrize("frozen", [(), ("model",), ("model", "lm_head"), ("branches",)])
def test_loss_and_gradient_are_the_means_of_the_submodels(name: str, frozen: tuple[str, ...]) -> None:
    family = random_family(decoders()[name]).double().train()
    for part in frozen:
        getattr(family, part).requires_grad_(False)
    found = family(IDS, labels=LABELS)
    rows = family.forward_exits(IDS)
    separate = torch.stack([ce(family.head(rows[g])) for g in rows])
    torch.testing.assert_close(found.exit_losses, separate.detach(), **EXACT)
    torch.testing.assert_close(found.loss, separate.mean(), **EXACT)
    expected = gradients(separate.mean(), family)
    for key, gradient in gradients(found.loss, family).items():
        torch.testing.assert_close(gradient, expected[key], msg=lambda m, key=key: f"{key}: {m}", **EXACT)
