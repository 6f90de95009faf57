from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from family.spec import Exit
from tests.tiny import TINY_EXITS
from training.base import LoadedBase, hash_weights
from training.errors import BaseModelError
from training.model import FamilyModel

IDS = torch.tensor([[5, 99, 300, 42, 7, 180, 501, 33, 64, 12]])


@pytest.mark.parametrize("g", [1, 2, 3])
def test_a_submodel_saves_and_reloads_as_a_plain_causal_lm_with_the_familys_logits(
    family: FamilyModel, tmp_path: Path, g: int
) -> None:
    with torch.no_grad():
        expected = family.head(family.forward_exits(IDS)[g])
        family.submodel(g).save_pretrained(tmp_path)
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(reloaded(IDS).logits, expected)
        torch.testing.assert_close(family.submodel(g)(IDS).logits, expected)
    assert reloaded.config.num_hidden_layers == (TINY_EXITS[g - 1] + 1 if g < 3 else TINY_EXITS[-1])
    assert type(reloaded).__name__ == family.spec.architecture


@pytest.mark.parametrize("g", [1, 2, 3])
def test_a_submodel_generates_the_same_with_and_without_a_kv_cache(family: FamilyModel, g: int) -> None:
    model = family.submodel(g)
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    cached = model.generate(IDS, use_cache=True, **options)
    assert torch.equal(cached, model.generate(IDS, use_cache=False, **options))


def test_submodels_leave_the_base_as_it_was(family: FamilyModel) -> None:
    before = family.base.model.config.to_dict()
    family.submodel(1)
    assert family.base.model.config.to_dict() == before
    assert hash_weights(family.base.model) == family.base.weights_sha256


def test_exits_differ_and_depend_on_their_branch(family: FamilyModel) -> None:
    with torch.no_grad():
        logits = {g: family.head(rows) for g, rows in family.forward_exits(IDS).items()}
    assert all(rows.std() > 1 for rows in logits.values())
    assert not torch.allclose(logits[1], logits[2], atol=0.1)
    assert not torch.allclose(logits[2], logits[3], atol=0.1)


def test_an_exit_may_have_a_norm_only(family: FamilyModel, tiny: LoadedBase) -> None:
    exits = (Exit(2, "norm"), *family.spec.exits[1:])
    bare = FamilyModel(replace(family.spec, exits=exits), tiny).eval()
    assert bare.submodel(1).config.num_hidden_layers == 2
    with torch.no_grad():
        torch.testing.assert_close(bare.submodel(1)(IDS).logits, bare.head(bare.forward_exits(IDS)[1]))


def test_an_unknown_exit_is_refused(family: FamilyModel) -> None:
    with pytest.raises(IndexError, match=r"exits 1\.\.3"):
        family.submodel(4)


def test_a_base_of_another_shape_is_refused_by_field(family: FamilyModel, tiny: LoadedBase) -> None:
    with pytest.raises(BaseModelError, match="d_ff is 192 in its spec but 160"):
        FamilyModel(replace(family.spec, d_ff=192), tiny)
    with pytest.raises(BaseModelError, match="context 9999 is more than"):
        FamilyModel(replace(family.spec, context=9999), tiny)
