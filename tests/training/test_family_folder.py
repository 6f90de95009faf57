import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from family.errors import SpecError
from training.base import LoadedBase
from training.checkpoint import branch_path, load_family, save_family
from training.errors import BaseModelError, CheckpointError
from training.loaded import LoadedFamily

IDS = torch.tensor([[5, 99, 300, 42]])
TENSOR = "block.mlp.up_proj.weight"


@pytest.fixture
def folder(family: LoadedFamily, tmp_path: Path) -> Path:
    save_family(family, tmp_path / "tiny-g3")
    return tmp_path / "tiny-g3"


def test_a_saved_family_loads_with_the_same_results(family: LoadedFamily, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_family(folder, family.base)
    assert loaded.spec == family.spec
    assert sorted(p.name for p in folder.iterdir()) == ["branch-1.safetensors", "branch-2.safetensors", "spec.json"]
    with torch.no_grad():
        for g, rows in family.model.forward_exits(IDS).items():
            assert torch.equal(loaded.model.forward_exits(IDS)[g], rows)


def test_an_exit_is_generated_from_as_the_base_is(family: LoadedFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family.base.model.generation_config, "eos_token_id", [2, 7])
    model = family.submodel(1)
    assert model.generation_config.eos_token_id == [2, 7]
    assert model.generation_config is not family.base.model.generation_config


def test_a_base_of_another_shape_is_refused_by_field(family: LoadedFamily) -> None:
    with pytest.raises(BaseModelError, match="d_ff is 192 in its spec but 160"):
        replace(family, spec=replace(family.spec, d_ff=192))
    with pytest.raises(BaseModelError, match="context 9999 is more than"):
        replace(family, spec=replace(family.spec, context=9999))


def test_branches_are_stored_in_bfloat16(folder: Path) -> None:
    assert {t.dtype for t in load_file(branch_path(folder, 1)).values()} == {torch.bfloat16}


def test_other_base_weights_are_warned_of_and_allowed(folder: Path, tiny: LoadedBase) -> None:
    with pytest.warns(UserWarning, match="was trained on base with weights.*is not known: measure"):
        load_family(folder, replace(tiny, weights_sha256="0" * 64))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop(TENSOR), f"tensor {TENSOR} is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor extra is not part of this branch"),
        (lambda t: t.update({TENSOR: torch.zeros(3, 4)}), rf"tensor {TENSOR} has shape \(3, 4\), expected \(160, 64\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_file(folder: Path, tiny: LoadedBase, change, problem) -> None:
    path = branch_path(folder, 2)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"branch-2\.safetensors: {problem}"):
        load_family(folder, tiny)


def test_missing_and_truncated_branches_are_named(folder: Path, tiny: LoadedBase) -> None:
    path = branch_path(folder, 1)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"branch-1\.safetensors: not readable"):
        load_family(folder, tiny)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"branch-1\.safetensors: missing"):
        load_family(folder, tiny)


def test_a_folder_without_spec_is_named(tmp_path: Path, tiny: LoadedBase) -> None:
    with pytest.raises(SpecError, match=r"spec\.json: no such file"):
        load_family(tmp_path, tiny)
