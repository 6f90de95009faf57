"""What a plan is shown beside: one tier that serves everything, texts in place of rows, models trained apart."""

from dataclasses import dataclass, replace

import numpy as np

from family.spec import Exit
from scaling.plan.exitlaw import ExitLaw
from scaling.plan.fleet import Fleet
from scaling.plan.goals import goals_of
from scaling.plan.plan import GIGA, plan_of
from scaling.plan.queueing import BUSY
from scaling.plan.search import Choice, Found, Group, groups, limits_of
from scaling.plan.shapes import count
from scaling.plan.stages import answering, options
from scaling.plan.tiers import Part
from training.flops import training_flops


@dataclass(frozen=True)
class Beside:
    """Another way to serve the same traffic."""

    name: str
    what: str
    """In words."""
    loss: float | None
    """Mean over requests; missing where it cannot run."""
    tpot_s: float | None
    cost_per_hour: float | None
    power_w: float | None
    training_flops: float | None
    fails: tuple[str, ...]
    """Goals that it does not keep."""


def beside(fleet: Fleet, law: ExitLaw, found: Found, best: Choice) -> tuple[Beside, ...]:
    """Everything in the cloud, everything on the device, token ids in place of rows, models trained apart."""
    group = found.groups[best.group]
    ways: list[Beside] = []
    if len(fleet.tiers) > 1:
        ways += [_alone(fleet, law, group, at) for at in (len(fleet.tiers) - 1, 0)]
    if len(group.used) > 1:
        ids = _ids(fleet, group, best.index)
        ways += [ids, _apart(fleet, law, group, best.index, ids)]
    return tuple(ways)


def _alone(fleet: Fleet, law: ExitLaw, group: Group, at: int) -> Beside:
    """A dense model of the same budget on one tier: on the plan's trunk, or the best that the tier holds."""
    name, tier = f"everything on {fleet.tiers[at].name}", fleet.tiers[at]
    what = "one dense model" if at else "one dense model, no network"
    bare = fleet
    for goal in goals_of(fleet):
        if not goal.name.startswith("goals.memory_free"):
            bare = goal.without(bare)
    kept = list(groups(bare, law, limits_of(bare), [(at,)]))
    if not kept:
        return Beside(name, f"no trunk fits into {tier.name}'s memory", None, None, None, None, None, ())
    shape = group.made.spec.d_model, group.made.spec.n_layers
    same = [g for g in kept if (g.made.spec.d_model, g.made.spec.n_layers) == shape]
    chosen = (same or [min(kept, key=lambda g: float(g.quality.min()))])[0]
    index = int(np.argmin(chosen.placements.cost))
    plan = plan_of(bare, law, chosen, index)
    fails = [goal.name for goal in goals_of(fleet) if goal.measure(fleet, chosen)[index] > goal.wanted * (1 + 1e-9)]
    size = f"{plan.parameters:.3g} parameters" + ("" if same else ", the best that fits")
    return Beside(
        name,
        f"{what}, {size}",
        plan.loss,
        plan.tpot_s,
        plan.cost_per_hour,
        plan.power_w,
        plan.training_flops,
        tuple(fails),
    )


def _ids(fleet: Fleet, group: Group, index: int) -> Beside:
    """Each class at its own tier from the first layer on: ids go up once, tokens come back as a stream."""
    cost = power = latency = 0.0
    spec, layers, limits = group.made.spec, group.placements.layers[index], limits_of(fleet)
    small, missed = [], set()
    for i, at in enumerate(group.used):
        share = float(group.shares[i])
        if not share:
            continue
        tier, option = fleet.tiers[at], group.options[i][group.placements.options[index, i]]
        part = Part(at, None, i == len(group.used) - 1, share, share)
        stage = next(options(fleet, spec, group.made.shape.tied, part, option.held.precision, (BUSY,))).stage
        k = int(layers[i]) - 1
        if not stage.possible[k]:
            room = tier.hardware.memory_bytes / GIGA
            small.append(f"{tier.name}: {layers[i]} layers do not fit, or take too many machines ({room:.3g} GB each)")
            continue
        sums = stage.sums[:, [k]]
        late = limits.ttft_of(sums, stage.own_ttft) > limits.ttft, limits.tpot_of(sums, stage.own_tpot) > limits.tpot
        missed |= {name for name, is_late in zip(("goals.ttft_ms", "goals.tpot_ms"), late, strict=True) if is_late}
        cost += float(stage.cost[k])
        power += float(stage.power[k])
        latency += share * float(stage.tpot[k] + stage.own_tpot)
    what = "token ids in place of rows: each tier computes its exits' layers from the first on, and streams"
    if small:
        return Beside("token ids", what, None, None, None, None, None, tuple(small))
    missed |= {"goals.budget_per_hour"} if cost > limits.cost else set()
    fails = tuple(sorted(missed))
    return Beside("token ids", what, float(group.quality[index]), latency, cost, power, group.made.flops, fails)


def _apart(fleet: Fleet, law: ExitLaw, group: Group, index: int, ids: Beside) -> Beside:
    """Dense models of the exits' own sizes, all on as many tokens as the same budget gives them together.

    They are served as token ids are: each tier has all layers of its model.
    """
    made, layers = group.made, group.placements.layers[index]
    shapes = [replace(made.shape, n_layers=int(layer), exits=(Exit(int(layer), "norm"),)) for layer in layers]
    sizes = [count(shape, law.params) for shape in shapes]
    tokens = made.flops / sum(training_flops(shape, made.spec.context).total for shape in shapes)
    one = np.ones(1)
    losses = np.array([law.losses(law.theta, n, tokens, 1, one, one)[0, 0] for n in sizes])
    what = (
        f"{len(sizes)} dense models of the exits' sizes on {tokens:.3g} tokens each, {made.d:.3g} in the family; "
        "a text cannot move from one to another"
    )
    tiers = [(answering(group.used, at), tier.name) for at, tier in enumerate(fleet.tiers)]
    loss = fleet.goals.loss
    fails = [*ids.fails, *(f"goals.loss.{name}" for i, name in tiers if losses[i] > loss.get(name, np.inf))]
    mean = float(losses @ group.shares)
    return Beside("trained apart", what, mean, ids.tpot_s, ids.cost_per_hour, ids.power_w, made.flops, tuple(fails))
