import copy

import pytest
import torch

from training.base import LoadedBase
from training.lora import add_lora, lora_tensors, merge_lora

IDS = torch.tensor([[5, 99, 300, 42]])


@pytest.fixture
def deltas(tiny: LoadedBase) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A trunk with deltas that are not zero, and its file's tensors."""
    model = copy.deepcopy(tiny.model)
    add_lora(model.model, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert ".lora_" in name
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, lora_tensors(model.state_dict(), "model.")


def test_merged_deltas_give_the_logits_of_the_trunk_they_were_trained_in(
    deltas: tuple[torch.nn.Module, dict[str, torch.Tensor]], tiny: LoadedBase
) -> None:
    model, tensors = deltas
    merged = copy.deepcopy(tiny.model)
    merge_lora(merged.model, tensors)
    with torch.no_grad():
        assert not torch.allclose(tiny.model(IDS).logits, model(IDS).logits, atol=1e-2)
        torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_every_linear_map_of_the_trunks_layers_has_a_delta(
    deltas: tuple[torch.nn.Module, dict[str, torch.Tensor]],
) -> None:
    _, tensors = deltas
    assert len(tensors) == 6 * 7 * 2  # layers, maps, A and B
    assert tensors["layers.5.mlp.down_proj.A"].shape == (4, 160)
    assert tensors["layers.5.mlp.down_proj.B"].shape == (64, 4)


@pytest.mark.parametrize(
    ("name", "tensor", "error", "problem"),
    [
        ("layers.9.mlp.up_proj.A", torch.zeros(4, 64), KeyError, "layers.9.mlp.up_proj.A is no delta"),
        ("layers.0.mlp.up_proj.C", torch.zeros(4, 64), KeyError, "layers.0.mlp.up_proj.C is no delta"),
        ("layers.0.mlp.up_proj.B", None, KeyError, "layers.0.mlp.up_proj.B is missing"),
        ("layers.0.mlp.up_proj.A", torch.zeros(4, 63), ValueError, r"a delta of \(160, 4\) x \(4, 63\)"),
        ("layers.0.mlp.up_proj.A", torch.zeros(3, 64), ValueError, r"on a map of \(160, 64\)"),
    ],
)
def test_deltas_that_do_not_fit_are_named(
    deltas: tuple[torch.nn.Module, dict[str, torch.Tensor]],
    tiny: LoadedBase,
    name: str,
    tensor: torch.Tensor | None,
    error: type[Exception],
    problem: str,
) -> None:
    tensors = dict(deltas[1])
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    with pytest.raises(error, match=problem):
        merge_lora(copy.deepcopy(tiny.model.model), tensors)
