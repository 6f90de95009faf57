"""`report.json`: how a family was trained and how its exits do on held-out text."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from training.data import SourceUse
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


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: version(name) for name in LIBRARIES}
