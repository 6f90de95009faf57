"""Accounting against real models: parameters to the last one, FLOPs against PyTorch's counter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import PretrainedConfig

from family.spec import Exit
from tests.training.shapes import EXITS, decoders
from training.config import FamilyConfig
from training.flops import FamilyShape, inference_flops, parameters, shape_of, tokens_for, training_flops
from training.modeling import FamilyForCausalLM
from training.objective import Progress
from training.presets import PRESETS, family_config, norm_exits, small_shape

WITHIN = 0.01
SMALL = small_shape(64, 3, 4, 512, (Exit(1, "norm"), Exit(2, "block"), Exit(3, "norm")))
LOW_RANK = replace(SMALL, exits=(Exit(1, "lowrank", 24), Exit(3, "norm")))


def on_meta(config: FamilyConfig) -> FamilyForCausalLM:
    config.decoder._attn_implementation = "eager"  # PyTorch counts no CPU kernel of attention
    with torch.device("meta"):
        return FamilyForCausalLM(config)


def counted_step(family: FamilyForCausalLM, window: int) -> float:
    """What PyTorch counts per token for a step on one window, each exit's loss a graph of its own."""
    ids = torch.zeros(1, window, dtype=torch.long, device=family.device)
    with FlopCounterMode(display=False) as counter:
        rows = family.forward_exits(ids, torch.ones_like(ids))  # without a mask transformers looks into the ids
        torch.stack([cross_entropy(family.head(r[:, :-1]), ids[:, 1:]) for r in rows.values()]).mean().backward()
    return counter.get_total_flops() / window


class PlainCounter(TorchDispatchMode):
    """PyTorch's formulas without its record of modules, which does not bear a gradient taken inside a forward."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")  # addmm_ is addmm
        formula = flop_registry.get(getattr(torch.ops.aten, name, None))
        self.flops += formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        return out


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_training_step_costs_what_pytorch_counts(name: str) -> None:
    shape = PRESETS[name]
    counted = counted_step(on_meta(family_config(shape)), window=512)
    assert training_flops(shape, 512).total == pytest.approx(counted, rel=WITHIN)


@pytest.mark.parametrize("window", [16, 128])
def test_branches_cost_what_pytorch_counts(window: int) -> None:
    counted = counted_step(on_meta(family_config(SMALL)), window)
    assert training_flops(SMALL, window).total == pytest.approx(counted, rel=WITHIN)


def really_counted(shape: FamilyShape, window: int, steps: int = 1) -> float:
    """What PyTorch counts per token, in the mean over steps, as families are really trained."""
    family = FamilyForCausalLM(family_config(shape))
    family.set_attn_implementation("eager")
    ids = torch.zeros(1, window, dtype=torch.long)
    with PlainCounter() as counter:
        for step in range(steps):
            family.progress = Progress(step)
            loss = family(ids, labels=ids).loss
            assert loss is not None
            loss.backward()
    return counter.flops / ids.numel() / steps


def test_a_step_as_it_is_really_trained_makes_no_product_twice() -> None:
    assert training_flops(SMALL, 128).total == pytest.approx(really_counted(SMALL, 128), rel=WITHIN)


def test_a_low_rank_branch_costs_the_mean_over_the_ranks_it_is_trained_at() -> None:
    counted = really_counted(LOW_RANK, 32, steps=48)
    assert training_flops(LOW_RANK, 32).total == pytest.approx(counted, rel=WITHIN)
    full = really_counted(LOW_RANK, 32)
    assert counted < 0.99 * full


def test_a_frozen_trunk_costs_its_forward_only() -> None:
    family = on_meta(family_config(SMALL))
    family.model.requires_grad_(False)
    family.lm_head.requires_grad_(False)
    expected = training_flops(SMALL, 128, "branches")
    assert expected.total == pytest.approx(counted_step(family, 128), rel=WITHIN)
    assert expected.trunk == pytest.approx(training_flops(SMALL, 128).trunk / 3)


@pytest.mark.parametrize("g", [1, 2, 3])
def test_inference_at_an_exit_costs_what_its_sub_model_costs(g: int) -> None:
    family = FamilyForCausalLM(family_config(SMALL))
    family.set_attn_implementation("eager")
    submodel = family.submodel(g)
    ids = torch.zeros(1, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        submodel(ids)
    assert inference_flops(SMALL, g, 64).total == pytest.approx(counter.get_total_flops() / 64, rel=WITHIN)


@pytest.mark.parametrize("name", ["dense-1b", "family-4b", "smollm2-135m-g3"])
def test_a_presets_parameters_are_counted_to_the_last_one(name: str) -> None:
    family = on_meta(family_config(PRESETS[name]))
    assert parameters(PRESETS[name]).total == sum(p.numel() for p in family.parameters())


@pytest.mark.parametrize(("name", "decoder"), decoders().items())
def test_parameters_of_every_decoder_and_branch_are_counted_to_the_last_one(
    name: str, decoder: PretrainedConfig
) -> None:
    config = FamilyConfig(decoder=decoder, exits=EXITS)
    family = FamilyForCausalLM(config)
    found = parameters(shape_of(config))
    assert found.total == sum(p.numel() for p in family.parameters())
    assert found.branches[:3] == tuple(sum(p.numel() for p in b.parameters()) for b in family.branches.values())
    assert found.head == family.lm_head.weight.numel()


def test_a_shape_survives_its_config() -> None:
    assert shape_of(family_config(SMALL)) == SMALL


def test_biases_of_attention_and_mlp_count() -> None:
    decoder = decoders()["llama"]
    decoder.attention_bias = decoder.mlp_bias = True
    config = FamilyConfig(decoder=decoder)
    family = FamilyForCausalLM(config)
    assert parameters(shape_of(config)).total == sum(p.numel() for p in family.parameters())


def test_a_budget_trains_a_family_on_fewer_tokens_than_a_dense_model_of_the_same_trunk() -> None:
    dense = small_shape(64, 8, 4, 512, norm_exits(8))
    family = replace(dense, exits=norm_exits(2, 4, 6, 8))
    assert tokens_for(1e12, family, 128) < tokens_for(1e12, dense, 128)
    spent = tokens_for(1e12, family, 128) * training_flops(family, 128).total
    assert 0 <= 1e12 - spent < training_flops(family, 128).total
