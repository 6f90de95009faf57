"""A family on every supported decoder: its exits are ordinary models, and files give it back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PretrainedConfig, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from family.errors import SpecError
from family.spec import Exit
from tests.training.shapes import EXITS, SHAPE, decoders, random_family, random_ids
from training.config import FamilyConfig
from training.lowrank import LowRankLinear
from training.modeling import FamilyForCausalLM

every_decoder = pytest.mark.parametrize("decoder", decoders().values(), ids=decoders().keys())
IDS = random_ids()


@every_decoder
def test_the_last_exit_is_the_dense_model_that_the_family_was_made_of(decoder: PretrainedConfig) -> None:
    torch.manual_seed(0)
    dense = MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder)](decoder).eval()
    family = FamilyForCausalLM.from_base(EXITS, dense)
    with torch.no_grad():
        assert torch.equal(family(IDS).logits, dense(IDS).logits)
    assert family.model is dense.model and family.lm_head.weight is dense.lm_head.weight


@every_decoder
def test_every_exit_reloads_as_a_plain_model_with_the_familys_logits(decoder: PretrainedConfig, tmp_path: Path) -> None:
    family = random_family(decoder)
    with torch.no_grad():
        expected = {g: family.head(rows) for g, rows in family.forward_exits(IDS).items()}
        for g, logits in expected.items():
            family.submodel(g).save_pretrained(tmp_path / str(g))
            plain = AutoModelForCausalLM.from_pretrained(tmp_path / str(g))
            assert type(plain) is MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder)]
            assert plain.config.num_hidden_layers == [1, 3, 4, 4][g - 1]
            torch.testing.assert_close(plain(IDS).logits, logits, rtol=1e-5, atol=1e-5)
    assert len({float(logits.sum()) for logits in expected.values()}) == 4


@every_decoder
def test_a_family_survives_its_files(decoder: PretrainedConfig, tmp_path: Path) -> None:
    family = random_family(decoder, exit_weights=[1, 2, 3, 4])
    family.save_pretrained(tmp_path)
    for reloaded in (FamilyForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert type(reloaded) is FamilyForCausalLM
        assert reloaded.config.exit_weights == [1, 2, 3, 4]
        assert reloaded.num_parameters() == family.num_parameters()
        assert (reloaded.lm_head.weight is reloaded.model.embed_tokens.weight) == decoder.tie_word_embeddings
        with torch.no_grad():
            for g, rows in family.forward_exits(IDS).items():
                assert torch.equal(reloaded.forward_exits(IDS)[g], rows)


def test_a_block_begins_as_the_trunks_next_layer_and_a_norm_as_its_last() -> None:
    dense = random_family(decoders()["llama"]).submodel(4)
    family = FamilyForCausalLM.from_base(EXITS, dense)
    layer, block = dense.model.layers[2].state_dict(), family.branch(2).block
    assert block is not None
    assert all(torch.equal(tensor, layer[name]) for name, tensor in block.state_dict().items())
    assert all(p is not q for p in block.parameters() for q in dense.parameters())
    for g in (1, 2, 3):
        assert torch.equal(next(family.branch(g).norm.parameters()), dense.model.norm.weight)


def test_a_family_from_scratch_has_weights_of_the_usual_size_in_every_branch() -> None:
    decoder = decoders()["llama"]
    torch.manual_seed(0)
    family = FamilyForCausalLM(FamilyConfig(decoder=decoder, exits=EXITS))
    matrices = [p for name, p in family.named_parameters() if p.ndim == 2 and not name.endswith((".u", ".v"))]
    maps = [m.matrix() for m in family.modules() if isinstance(m, LowRankLinear)]
    assert len(maps) == 7
    for matrix in (*matrices, *maps):
        assert 0.8 < float(matrix.detach().std()) / decoder.initializer_range < 1.2


@pytest.mark.parametrize("g", [1, 2, 3, 4])
def test_an_exit_generates_the_same_with_and_without_a_kv_cache(g: int) -> None:
    model = random_family(decoders()["qwen3-sliding"]).submodel(g)
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    cached = model.generate(IDS, use_cache=True, **options)
    assert torch.equal(cached, model.generate(IDS, use_cache=False, **options))


def test_submodels_leave_the_family_as_it_was() -> None:
    family = random_family(decoders()["qwen2-sliding"])
    config, state = family.config.to_dict(), {name: t.clone() for name, t in family.state_dict().items()}
    for g in (1, 2, 3, 4):
        family.submodel(g)
    assert family.config.to_dict() == config
    assert all(torch.equal(tensor, state[name]) for name, tensor in family.state_dict().items())
    for g in (0, 5):
        with pytest.raises(IndexError, match=r"exits 1\.\.4"):
            family.submodel(g)


@every_decoder
def test_a_submodel_and_its_family_have_each_their_own_kind_of_attention(decoder: PretrainedConfig) -> None:
    family = random_family(decoder)
    with torch.no_grad():
        expected = {g: family.head(rows) for g, rows in family.forward_exits(IDS).items()}
        for g, logits in expected.items():
            model = family.submodel(g)
            family.set_attn_implementation("eager")
            torch.testing.assert_close(model(IDS).logits, logits, rtol=1e-5, atol=1e-5)
            family.set_attn_implementation("sdpa")
            model.set_attn_implementation("eager")  # the only kind that has weights to show
            shown = model(IDS, output_attentions=True)
            assert len(shown.attentions) == model.config.num_hidden_layers and shown.attentions[0].ndim == 4
            torch.testing.assert_close(shown.logits, logits, rtol=1e-5, atol=1e-5)
            assert torch.equal(family.head(family.forward_exits(IDS)[g]), logits)


def test_a_submodel_shares_the_familys_weights() -> None:
    family = random_family(decoders()["qwen2-sliding"])
    held = {id(parameter) for parameter in family.parameters()}
    for g in (1, 2, 4):
        assert {id(parameter) for parameter in family.submodel(g).parameters()} <= held


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"decoder": GPT2Config()}, "decoder: a 'gpt2' model cannot be a trunk; expected one of llama"),
        ({"exits": [Exit(2, "block")]}, "exits: the last exit must be after the last layer, 4"),
        ({"exits": [{"layer": 4}]}, r"exits\[0\]\.branch: missing"),
        ({"exits": [Exit(2, "lowrank"), Exit(4, "norm")]}, r"exits\[0\]\.rank: expected 1\.\.32"),
        ({"exit_weights": [1.0, 2.0]}, "exit_weights: expected one per exit, 1; got 2"),
        ({"exit_weights": [-1.0]}, "weights: expected numbers from 0 on"),
        (
            {"decoder": Qwen3Config(**SHAPE, layer_types=["full_attention"] * 3 + ["chunked_attention"])},
            "decoder.layer_types: expected full_attention or sliding_attention, got chunked_attention",
        ),
    ],
)
def test_a_config_that_makes_no_family_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        FamilyConfig(**{"decoder": decoders()["llama"], **given})
