"""The family folder, and what it holds besides `spec.json` and `report.json`.

A family on a base: `branch-g.safetensors` for each early exit, and `trunk-lora.safetensors` where the trunk was trained
by deltas, both in bfloat16. A family whose trunk was trained as a whole: all of it as
`FamilyForCausalLM.save_pretrained` writes it, with its tokenizer.
"""

import copy
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoTokenizer

from family.files import write_atomic
from family.spec import SPEC_NAME, Base, FamilySpec, load_spec, save_spec
from training.base import LoadedBase, hash_weights, load_base_of
from training.config import FamilyConfig
from training.errors import BaseModelError, CheckpointError
from training.loaded import LoadedFamily
from training.lora import lora_tensors, merge_lora
from training.modeling import FamilyForCausalLM
from training.quiet import quiet
from training.shapes import check_shapes

REPORT_NAME = "report.json"
LORA_NAME = "trunk-lora.safetensors"
CONFIG_NAME = "config.json"


def branch_path(folder: Path, g: int) -> Path:
    """File of exit g's branch (bfloat16) in a family folder."""
    return folder / f"branch-{g}.safetensors"


def is_whole(folder: Path) -> bool:
    """Whether a family folder holds its trunk too, and so needs no base."""
    return (folder / CONFIG_NAME).is_file()


def open_family(folder: Path, base: str | None = None) -> LoadedFamily:
    """Read a family folder and the base that it needs: `base`, or the one it was trained on.

    Raises:
        SpecError, BaseModelError, CheckpointError: as `load_family` and `load_base_of`.
    """
    spec = load_spec(folder / SPEC_NAME)  # fails sooner than loading the base would
    return load_family(folder, None if is_whole(folder) else load_base_of(spec, base))


def load_family(folder: Path, base: LoadedBase | None) -> LoadedFamily:
    """Read a family folder on top of a loaded base, None for a family that holds its trunk; everything is float32.

    Weights other than those the branches were trained on are allowed (a hub's bfloat16 instead of a dequantized file)
    but warned of, since the exits were not trained on exactly those. The base itself is not changed.

    Raises:
        SpecError: `spec.json` is missing or malformed.
        BaseModelError: the base has other shapes than the spec, or there is none.
        CheckpointError: a file is missing, or its tensors are not exactly those expected; the text names them.
    """
    spec = load_spec(folder / SPEC_NAME)
    if is_whole(folder):
        model = _read_whole(folder)
        trunk: Any = model.submodel(spec.granularity)
        trunk.model = model.model.requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return LoadedFamily(spec, LoadedBase(trunk, tokenizer, spec.base.id, spec.base.weights_sha256), model)
    if base is None:
        raise BaseModelError(f"family {spec.name}: its trunk is {spec.base.id}'s; give that base")
    loaded = _with_deltas(folder, spec, base)
    model = FamilyForCausalLM.from_base(spec.exits, loaded.model)
    for g in range(1, spec.granularity):
        load_branch(branch_path(folder, g), model.branch(g))
    return LoadedFamily(spec, loaded, cast(FamilyForCausalLM, model.train(False)))


def load_trained(folder: Path, base: LoadedBase | None) -> FamilyForCausalLM:
    """The model that `load_family` reads."""
    return load_family(folder, base).model


def save_family(family: LoadedFamily, folder: Path) -> None:
    """Write the spec and the branches of a family on its base; each file whole or not at all."""
    write_branches(family.model.state_dict(), family.spec, folder)
    save_spec(family.spec, folder / SPEC_NAME)


def save_trained(
    config: FamilyConfig, state: Mapping[str, Tensor], spec: FamilySpec, trunk: str, tokenizer: Any, folder: Path
) -> FamilySpec:
    """Write a trained family's folder, without its report; each file whole or not at all.

    Args:
        config: the family's.
        state: its state dict, gathered from all processes.
        spec: the family's.
        trunk: what of the trunk was trained, one of `training.recipe.TRUNKS`.
        tokenizer: for a folder that needs no base.
        folder: where to.

    Returns:
        The spec as written: a trunk that was trained as a whole is its own base.
    """
    if trunk == "full":
        spec = spec.with_base(Base(spec.name, _write_whole(config, state, tokenizer, folder)))
    else:
        write_branches(state, spec, folder)
        if trunk == "lora":
            _write_tensors(folder / LORA_NAME, lora_tensors(state, "model."))
    save_spec(spec, folder / SPEC_NAME)
    return spec


def rewrite_branches(family: FamilyForCausalLM, folder: Path) -> None:
    """Put other branches of the same shapes into a family folder."""
    spec = load_spec(folder / SPEC_NAME)
    if is_whole(folder):
        _write_whole(family.config, family.state_dict(), AutoTokenizer.from_pretrained(folder), folder)
    else:
        write_branches(family.state_dict(), spec, folder)


def write_branches(state: Mapping[str, Tensor], spec: FamilySpec, folder: Path) -> None:
    """Write the branches out of a family's state dict, rounded to bfloat16."""
    for g in range(1, spec.granularity):
        prefix = f"branches.{g}."
        named = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        _write_tensors(branch_path(folder, g), named)


def _with_deltas(folder: Path, spec: FamilySpec, base: LoadedBase) -> LoadedBase:
    """The base, or a copy of it with the trunk's deltas added."""
    check_shapes(spec, base.model)
    if base.weights_sha256 != spec.base.weights_sha256:
        warnings.warn(
            f"{folder}: it was trained on {spec.base.id} with weights {spec.base.weights_sha256[:12]}, this "
            f"base ({base.id}) has {base.weights_sha256[:12]}; how good its exits are on these is not known: measure "
            "them (export-family --eval), or give the base that it was trained on",
            stacklevel=4,
        )
    path = folder / LORA_NAME
    if not path.exists():
        return base
    model = copy.deepcopy(base.model)
    try:
        merge_lora(model.model, _read_tensors(path))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {error.args[0]}; copy the family folder again") from error
    return LoadedBase(model, base.tokenizer, base.id, hash_weights(model))


def load_branch(path: Path, branch: torch.nn.Module) -> None:
    """Fill a branch from its file, strictly. Raises `CheckpointError` that names the file and the tensor."""
    tensors = _read_tensors(path)
    expected = branch.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        if name not in expected:
            raise CheckpointError(f"{path}: tensor {name} is not part of this branch")
        found, wanted = tuple(tensors[name].shape), tuple(expected[name].shape)
        if found != wanted:
            raise CheckpointError(f"{path}: tensor {name} has shape {found}, expected {wanted}")
    branch.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; copy the family folder again or train it anew") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error}); copy the family folder again") from error
    return tensors


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    rounded = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(rounded, metadata={"format": "pt"}))


def _read_whole(folder: Path) -> FamilyForCausalLM:
    try:
        with quiet():
            family: FamilyForCausalLM = FamilyForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not readable ({error}); copy the family folder again") from error
    return cast(FamilyForCausalLM, family.train(False))


def _write_whole(config: FamilyConfig, state: Mapping[str, Tensor], tokenizer: Any, folder: Path) -> str:
    """Write a family with its trunk and tokenizer; the hash of the trunk's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        family = FamilyForCausalLM(config)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".save-") as scratch:
        tokenizer.save_pretrained(scratch)
        with quiet():
            family.save_pretrained(scratch, state_dict=dict(state))
        written = _read_whole(Path(scratch))
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.name == CONFIG_NAME):  # it says: whole
            path.chmod(0o644)
            path.replace(folder / path.name)
    return hash_weights(written.submodel(written.config.granularity))
