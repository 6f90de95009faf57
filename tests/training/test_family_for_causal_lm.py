"""A family on every supported decoder: its exits are ordinary models, and files give it back."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from family.errors import SpecError
from family.spec import Exit
from tests.training.shapes import EXITS, SHAPE, decoders, random_family, random_ids
from training.config import FamilyConfig
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
