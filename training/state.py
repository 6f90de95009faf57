"""A training run's resumable state: branches, optimizer, step and curve in one file, written whole or not at all.

Nothing random is left after the data's order (`training.trainer`), so these are all that the next step depends on.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from family.files import write_atomic
from family.strict import FieldError, dumps, from_json
from training.errors import CheckpointError
from training.trainer import Trainer

STATE_NAME = "training-state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class CurvePoint:
    """Mean losses of the early exits since the point before."""

    tokens: int
    kl: tuple[float, ...]
    """Exit 1..G-1, nats per position from the last exit."""
    agreement: tuple[float, ...]


@dataclass(frozen=True)
class Progress:
    """Where a run is, besides its tensors."""

    run: str
    """Hash of everything that decides the result; a state of another run is refused."""
    step: int
    seconds: float
    """Time spent training, over all starts."""
    curve: tuple[CurvePoint, ...]


def save_state(path: Path, trainer: Trainer, progress: Progress) -> None:
    """Write the state of a run."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trainer.model.trainable():
        tensors[name] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{name}:{moment}"] = trainer.optimizer.state[parameter][moment]
    write_atomic(path, save(tensors, metadata={"progress": dumps(progress)}))


def load_state(path: Path, trainer: Trainer, run: str) -> Progress:
    """Restore a run from its state. Raises `CheckpointError` if the file is damaged or of another run."""
    try:
        with safe_open(path, framework="pt") as file:
            progress = from_json(Progress, json.loads((file.metadata() or {}).get("progress", "{}")))
            if progress.run != run:
                raise CheckpointError(
                    f"{path}: the state of another run (other text, recipe, family or base); "
                    "give another --out, or delete it to start anew"
                )
            for name, parameter in trainer.model.trainable():
                with torch.no_grad():
                    parameter.copy_(file.get_tensor(name))
                trainer.optimizer.state[parameter] = {m: file.get_tensor(f"{name}:{m}") for m in MOMENTS}
    except (SafetensorError, FieldError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); delete it to start anew") from error
    trainer.step_index = progress.step
    return progress
