"""`design.json`: what a sweep varies and what it holds fixed, written by a person, read strictly."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from family.spec import BRANCH_KINDS
from family.strict import FieldError, from_json
from training.sweep.errors import SweepError

DESIGN_VERSION = 1
DESIGN_NAME = "design.json"
BYTES_AND_END = 257
"""The smallest vocabulary: every byte, and the end of a text."""
PLACEMENTS = ("even", "early", "late")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Texts:
    """What is trained on and what is measured on; files are named from the data folder."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    vocab_size: int
    """Of the byte-level BPE that is fitted to the training text; 257 is bytes alone."""
    held_out_tokens: int
    """Most tokens of each held-out file."""

    def __post_init__(self) -> None:
        _filled("texts.train", self.train)
        _filled("texts.held_out", self.held_out)
        if not BYTES_AND_END <= self.vocab_size <= 1 << 16:
            raise FieldError("texts.vocab_size", f"expected {BYTES_AND_END}..{1 << 16}, got {self.vocab_size}")
        _positive("texts.held_out_tokens", [self.held_out_tokens])


@dataclass(frozen=True)
class Recipe:
    """What all runs share, besides the constants of `training.sweep.loop`."""

    window: int
    """Tokens per window."""
    batch: int
    """Windows per step."""
    precision: str
    """`float32`, or `bfloat16` for matrix products under autocast."""

    def __post_init__(self) -> None:
        _positive("recipe.window, recipe.batch", [self.window - 1, self.batch])
        _one_of("recipe.precision", [self.precision], PRECISIONS)

    @property
    def step_tokens(self) -> int:
        return self.window * self.batch


@dataclass(frozen=True)
class RateRule:
    """Peak learning rate by size: `rate` · (N / `parameters`)^`power`."""

    parameters: float
    rate: float
    power: float

    def __post_init__(self) -> None:
        _positive("rate.parameters, rate.rate", [self.parameters, self.rate])

    def at(self, parameters: int, factor: float = 1.0) -> float:
        """The rate for N parameters, to four digits, so that a plan is the same wherever it is made."""
        return float(f"{factor * self.rate * (parameters / self.parameters) ** self.power:.4g}")


@dataclass(frozen=True)
class Size:
    """A trunk."""

    d_model: int
    n_layers: int
    n_heads: int

    def __post_init__(self) -> None:
        _positive("d_model, n_layers, n_heads", [self.d_model, self.n_layers, self.n_heads])
        if self.d_model % (2 * self.n_heads):
            raise FieldError("d_model", f"expected a multiple of twice n_heads = {self.n_heads}, got {self.d_model}")

    def __str__(self) -> str:
        return f"{self.d_model}x{self.n_layers}"


@dataclass(frozen=True)
class Grid:
    """A cross product of runs. Every size, budget and seed in it gets a dense run (G = 1) too, once."""

    budgets: tuple[float, ...]
    """C, FLOPs of a run."""
    sizes: tuple[Size, ...]
    granularities: tuple[int, ...]
    placements: tuple[str, ...] = ("even",)
    """Where early exits stand, see `training.sweep.plan.exit_layers`; no matter at G = 1."""
    seeds: tuple[int, ...] = (0,)
    branch: str = "norm"
    rank: int | None = None
    """Of `lowrank` branches."""
    rate_factors: tuple[float, ...] = (1.0,)
    """Multiples of the rule's learning rate: for tuning the rule."""
    depth_partners: bool = False
    """Whether each early exit is compared with a dense model of its depth, trained on as many tokens as the family."""

    def __post_init__(self) -> None:
        for name in ("budgets", "sizes", "granularities", "placements", "seeds", "rate_factors"):
            _filled(name, getattr(self, name))
        _positive("budgets", self.budgets)
        _positive("granularities", self.granularities)
        _positive("rate_factors", self.rate_factors)
        _one_of("placements", self.placements, PLACEMENTS)
        _one_of("branch", [self.branch], BRANCH_KINDS)
        if min(self.seeds) < 0:
            raise FieldError("seeds", f"expected numbers from 0 on, got {list(self.seeds)}")


@dataclass(frozen=True)
class Design:
    """A sweep: the union of its grids, a run that stands in several of them being done once."""

    schema_version: int
    name: str
    texts: Texts
    recipe: Recipe
    rate: RateRule
    grids: tuple[Grid, ...]

    def __post_init__(self) -> None:
        if self.schema_version != DESIGN_VERSION:
            raise FieldError(
                "schema_version", f"this release reads version {DESIGN_VERSION}, the file is of {self.schema_version}"
            )
        _filled("grids", self.grids)


def load_design(folder: Path) -> Design:
    """Read a sweep folder's `design.json`. Raises `SweepError` that names the file and the field."""
    path = folder / DESIGN_NAME
    try:
        return from_json(Design, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SweepError(f"{path}: no such file; a sweep begins with one (experiments/isoflop has examples)") from None
    except (FieldError, ValueError) as error:
        raise SweepError(f"{path}: {error}") from None


def _filled(field: str, values: tuple[object, ...]) -> None:
    if not values:
        raise FieldError(field, "expected at least one, got none")


def _positive(field: str, values: Iterable[float]) -> None:
    if any(not 0 < value < float("inf") for value in values):
        raise FieldError(field, f"expected positive numbers, got {list(values)}")


def _one_of(field: str, values: Iterable[str], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise FieldError(field, f"expected one of {known}, got {value!r}")
