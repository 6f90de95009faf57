"""`report.json`: how a family was trained and how its exits do on held-out text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from family.spec import Base
from family.strict import FieldError, from_json
from training.data import SourceUse
from training.errors import CheckpointError
from training.evaluate import Evaluation
from training.recipe import Recipe

REPORT_VERSION = 2
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "numpy")


@dataclass(frozen=True)
class CurvePoint:
    """Means since the point before."""

    tokens: int
    loss: tuple[float, ...]
    """L_g of every exit, nats per position; 0 for the last where nothing but KL is trained."""
    agreement: tuple[float, ...]
    """Of every early exit: share of the positions with KL whose top-1 token is the last exit's; 0 without KL."""


@dataclass(frozen=True)
class HeldOut:
    """Scores on one held-out file."""

    file: str
    sha256: str
    scores: Evaluation


@dataclass(frozen=True)
class Report:
    """Everything that is known about a training run."""

    schema_version: int
    command: str
    start: Base
    """The model that training began with."""
    branches: tuple[str, ...]
    """SHA-256 of the branches that training began with, where `--from` gave some."""
    recipe: Recipe
    tokens_seen: int
    seconds: float
    """Spent training, over all starts of the run."""
    train: tuple[SourceUse, ...]
    held_out: tuple[HeldOut, ...]
    """Of the family as saved, everything computed in float32."""
    curve: tuple[CurvePoint, ...]
    libraries: Mapping[str, str]
    run: str
    """Hash of everything that decided the result (`training.run.run_hash`): the same run is not done twice."""


def load_report(path: Path) -> Report | None:
    """The report of a finished family, None where there is none. Raises `CheckpointError` if it is not readable."""
    try:
        return from_json(Report, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (FieldError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); give another --out, or delete it") from error


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: version(name) for name in LIBRARIES}
