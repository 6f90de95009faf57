"""`plan.json`: every run of a sweep with all that decides its result, worked out from the design by exact accounting.

D follows from C: a run's tokens are its budget over `training_flops` per token, in whole steps (section 3.3 of arXiv
2512.23407). A dense partner of an exit's depth has no budget of its own: it takes the family's tokens, so that the two
losses differ by nothing but the family's other exits.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from family.files import write_atomic
from family.spec import Exit, check_exits
from family.strict import FieldError, canonical, dumps, from_json
from training.flops import FamilyShape, parameters, training_flops
from training.presets import norm_exits, small_shape
from training.sweep.design import Design, Grid, Size
from training.sweep.errors import SweepError

PLAN_VERSION = 1
PLAN_NAME = "plan.json"
DENSE = "dense"
"""Placement of a run without early exits."""
MOST_EPOCHS = 4
"""More passes over the same text than this teach much less than new text (Muennighoff et al., arXiv 2305.16264)."""
MOST_HEAD_SHARE = 0.2
"""Of N. A larger head would make N a measure of the vocabulary."""
FEWEST_STEPS = 50


@dataclass(frozen=True)
class HeldOutFacts:
    """What is measured on."""

    file: str
    sha256: str
    tokens: int
    bytes_per_token: float


@dataclass(frozen=True)
class CorpusFacts:
    """What is known of the texts once they are tokenized; `training.sweep.corpus` makes it."""

    tokenizer_sha256: str
    train_sha256: tuple[str, ...]
    unique_tokens: int
    held_out: tuple[HeldOutFacts, ...]


@dataclass(frozen=True)
class Run:
    """One run."""

    id: str
    """Hash of all that decides the result, texts and recipe included: a row with this id need not be made again."""
    budget_flops: float
    """The IsoFLOP group that it belongs to."""
    size: Size
    exits: tuple[Exit, ...]
    placement: str
    tokens: int
    """D, in whole steps."""
    lr: float
    seed: int
    depth_of: str | None = None
    """Id of the family one of whose exits has this dense model's depth; None for runs with a budget of their own."""

    @property
    def granularity(self) -> int:
        """G."""
        return len(self.exits)

    def __str__(self) -> str:
        layers = ",".join(str(e.layer) for e in self.exits)
        kind = f"exit {layers}" if self.granularity == 1 else f"exits {layers} ({self.placement})"
        return f"{self.budget_flops:.3g} FLOPs, {self.size}, {kind}, lr {self.lr:g}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A design, its texts' facts, and its runs in the order in which they are done."""

    schema_version: int
    design: Design
    corpus: CorpusFacts
    runs: tuple[Run, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical(self)).hexdigest()

    def shape(self, run: Run) -> FamilyShape:
        """The shape of a run's model."""
        size = run.size
        return small_shape(size.d_model, size.n_layers, size.n_heads, self.design.texts.vocab_size, run.exits)

    def flops(self, run: Run) -> float:
        """C: what a run costs."""
        return run.tokens * training_flops(self.shape(run), self.design.recipe.window).total


def exit_layers(n_layers: int, granularity: int, placement: str) -> tuple[int, ...]:
    """l_1..l_G of a trunk: `even` cuts it in G equal parts; `early` has all early exits in the first half and `late` in
    the second, evenly there, the one mirroring the other.

    Raises `FieldError` if that many exits do not fit.
    """
    width = n_layers / granularity if placement == "even" else n_layers / (2 * granularity)
    first = n_layers / 2 if placement == "late" else 0
    layers: list[int] = []
    for g in range(1, granularity):
        layers.append(max(int(first + g * width + 0.5), layers[-1] + 1 if layers else 1))
    if layers and layers[-1] >= n_layers:
        raise FieldError("granularities", f"{granularity} exits ({placement}) do not fit {n_layers} layers")
    return (*layers, n_layers)


def make_plan(design: Design, corpus: CorpusFacts) -> Plan:
    """Work out every run of a design. The cheapest budgets come first, and inside a budget the order is shuffled by the
    ids: a sweep that is cut short has whole budgets, and no side of its grid is missing from the last one.

    Raises:
        SweepError: a run has too few steps, too many epochs, too large a head, or exits that do not fit, or a held-out
            text does not fill a window; the text names it and what to change.
    """
    plan = Plan(PLAN_VERSION, design, corpus, ())
    for text in corpus.held_out:
        if text.tokens < design.recipe.window:
            raise SweepError(
                f"{text.file}: {text.tokens} tokens to measure on, fewer than one window of {design.recipe.window}; "
                "raise texts.held_out_tokens, or give a longer text"
            )
    found: dict[str, Run] = {}
    try:
        for grid in design.grids:
            for run in _grid_runs(plan, grid):
                found.setdefault(run.id, run)
    except FieldError as error:
        raise SweepError(str(error)) from None
    for run in found.values():
        _check(plan, run)
    return replace(plan, runs=tuple(sorted(found.values(), key=lambda run: (run.budget_flops, run.id))))


def load_plan(folder: Path) -> Plan:
    """Read a sweep folder's `plan.json`. Raises `SweepError`, also where it is not what its design gives."""
    path = folder / PLAN_NAME
    try:
        plan = from_json(Plan, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SweepError(f"{path}: no such file; write it with: sweep-family plan {folder}") from None
    except (FieldError, ValueError) as error:
        raise SweepError(f"{path}: {error}") from None
    if make_plan(plan.design, plan.corpus) != plan:
        raise SweepError(f"{path}: not what its design gives; write it again with: sweep-family plan {folder}")
    return plan


def save_plan(plan: Plan, folder: Path) -> None:
    """Write `plan.json`, whole or not at all."""
    write_atomic(folder / PLAN_NAME, dumps(plan))


def _grid_runs(plan: Plan, grid: Grid) -> Iterator[Run]:
    for budget, size, seed, factor in product(grid.budgets, grid.sizes, grid.seeds, grid.rate_factors):
        yield _run(plan, budget, size, norm_exits(size.n_layers), DENSE, seed, factor)
        for granularity, placement in product(grid.granularities, grid.placements):
            if granularity == 1:
                continue
            layers = exit_layers(size.n_layers, granularity, placement)
            early = tuple(Exit(layer, grid.branch, grid.rank) for layer in layers[:-1])
            exits = (*early, Exit(size.n_layers, "norm"))
            check_exits(exits, size.n_layers, size.d_model)
            family = _run(plan, budget, size, exits, placement, seed, factor)
            yield family
            if grid.depth_partners:
                yield from _depth_partners(plan, family)


def _run(
    plan: Plan, budget: float, size: Size, exits: tuple[Exit, ...], placement: str, seed: int, factor: float
) -> Run:
    run = Run("", budget, size, exits, placement, 0, 0.0, seed)
    shape, recipe = plan.shape(run), plan.design.recipe
    per_step = training_flops(shape, recipe.window).total * recipe.step_tokens
    lr = _rate(plan, size, factor)
    return _with_id(plan, replace(run, tokens=int(budget / per_step) * recipe.step_tokens, lr=lr))


def _rate(plan: Plan, size: Size, factor: float = 1.0) -> float:
    """A family learns at the rate of the dense model of its trunk, so that the two differ by their exits only."""
    dense = plan.shape(Run("", 0.0, size, norm_exits(size.n_layers), DENSE, 0, 0.0, 0))
    return plan.design.rate.at(parameters(dense).total, factor)


def _depth_partners(plan: Plan, family: Run) -> Iterator[Run]:
    """Dense models of the depth of each early exit's sub-model."""
    for exit_ in family.exits[:-1]:
        depth = exit_.layer + (exit_.branch != "norm")
        size = replace(family.size, n_layers=depth)
        partner = replace(family, size=size, exits=norm_exits(depth), placement=DENSE, depth_of=family.id)
        yield _with_id(plan, replace(partner, lr=_rate(plan, size)))


def _with_id(plan: Plan, run: Run) -> Run:
    """The run under the hash of what decides its result: not its place in the design, nor the other runs."""
    design, corpus = plan.design, plan.corpus
    what = {
        "run": replace(run, id="", budget_flops=0.0, placement="", depth_of=None),
        "recipe": design.recipe,
        "vocab_size": design.texts.vocab_size,
        "corpus": corpus,
    }
    return replace(run, id=hashlib.sha256(canonical(what)).hexdigest()[:12])


def _check(plan: Plan, run: Run) -> None:
    texts, recipe = plan.design.texts, plan.design.recipe
    n = parameters(plan.shape(run))
    epochs = run.tokens / plan.corpus.unique_tokens
    if run.tokens < FEWEST_STEPS * recipe.step_tokens:
        raise SweepError(
            f"run ({run}): {run.tokens // recipe.step_tokens} steps, expected at least {FEWEST_STEPS}; raise its "
            "budget, or lower recipe.batch or the size"
        )
    if epochs > MOST_EPOCHS:
        raise SweepError(
            f"run ({run}): {run.tokens} tokens are {epochs:.1f} epochs of the {plan.corpus.unique_tokens} unique ones, "
            f"expected at most {MOST_EPOCHS}; give more text, or lower the budget of this size"
        )
    if run.depth_of is None and n.head > MOST_HEAD_SHARE * n.total:
        raise SweepError(
            f"run ({run}): the head is {n.head / n.total:.0%} of its {n.total} parameters, expected at most "
            f"{MOST_HEAD_SHARE:.0%}; lower texts.vocab_size (now {texts.vocab_size}), or drop this size"
        )
