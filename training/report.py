"""`report.json`: how a family was trained and how its exits do on held-out text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from family.strict import FieldError, from_json
from training.data import SourceUse
from training.errors import CheckpointError
from training.evaluate import Evaluation
from training.state import CurvePoint
from training.trainer import Recipe

REPORT_VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


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
    recipe: Recipe
    loss: str
    tokens_seen: int
    seconds: float
    train: tuple[SourceUse, ...]
    held_out: tuple[HeldOut, ...]
    """Branches rounded to bfloat16 as saved, everything computed in float32; the last exit is the base itself."""
    curve: tuple[CurvePoint, ...]
    libraries: Mapping[str, str]
    run: str | None = None
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
