"""The family folder: `spec.json`, `branch-g.safetensors` per exit with a branch, and `report.json`."""

import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from family.files import write_atomic
from family.spec import load_spec, save_spec
from training.base import LoadedBase
from training.errors import CheckpointError
from training.model import FamilyModel

SPEC_NAME = "spec.json"
REPORT_NAME = "report.json"


def branch_path(folder: Path, g: int) -> Path:
    """File of exit g's branch (bfloat16) in a family folder."""
    return folder / f"branch-{g}.safetensors"


def load_family(folder: Path, base: LoadedBase) -> FamilyModel:
    """Read a family folder on top of a loaded base; branches become float32.

    Weights other than those the branches were trained on are allowed (a hub's bfloat16 instead of a dequantized file)
    but warned of, since the exits were not trained on exactly those.

    Raises:
        SpecError: `spec.json` is missing or malformed.
        BaseModelError: the base has other shapes than the spec.
        CheckpointError: a branch file is missing, or its tensors are not exactly the branch's; the text names them.
    """
    spec = load_spec(folder / SPEC_NAME)
    if base.weights_sha256 != spec.base.weights_sha256:
        warnings.warn(
            f"{folder}: its branches were trained on {spec.base.id} with weights {spec.base.weights_sha256[:12]}, this "
            f"base ({base.id}) has {base.weights_sha256[:12]}; how good its exits are on these is not known: measure "
            "them (export-family --eval), or give the base that it was trained on",
            stacklevel=2,
        )
    model = FamilyModel(spec, base)
    for g in range(1, spec.granularity):
        load_branch(branch_path(folder, g), model.branches[str(g)])
    return model.eval()


def save_family(model: FamilyModel, folder: Path) -> None:
    """Write the spec and the branches, rounded to bfloat16; each file whole or not at all."""
    for g in range(1, model.spec.granularity):
        state = model.branches[str(g)].state_dict()
        rounded = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in state.items()}
        write_atomic(branch_path(folder, g), save(rounded, metadata={"format": "pt"}))
    save_spec(model.spec, folder / SPEC_NAME)


def load_branch(path: Path, branch: torch.nn.Module) -> None:
    """Fill a branch from its file, strictly. Raises `CheckpointError` that names the file and the tensor."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; copy the family folder again or train it anew") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error}); copy the family folder again") from error
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
