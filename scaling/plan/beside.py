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
from scaling.plan.stages import spent_on
from scaling.plan.tiers import Part, held
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
        ways += [_ids(fleet, group, best.index), _apart(law, group, best.index)]
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
    same = [g for g in kept if g.made.spec.d_model == group.made.spec.d_model]
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
    spec, layers = group.made.spec, group.placements.layers[index]
    fails = []
    for i, at in enumerate(group.used):
        share = float(group.shares[i])
        if not share:
            continue
        tier, option = fleet.tiers[at], group.options[i][group.placements.options[index, i]]
        part = Part(at, None, i == len(group.used) - 1, share, share)
        own = held(fleet, spec, group.made.shape.tied, part, option.held.precision, BUSY)
        k = int(layers[i]) - 1
        if not own.possible[k]:
            room = tier.hardware.memory_bytes / GIGA
            fails.append(f"{tier.name}: {layers[i]} layers do not fit, or take too many machines ({room:.3g} GB each)")
            continue
        spent = spent_on(fleet, part, own.machines[[k]], own.busy[[k]])
        cost += float(np.asarray(spent.per_hour)[0])
        power += float(np.asarray(spent.power_w)[0])
        latency += share * (own.step_s[k] + own.exit_tpot_s)
    what = "token ids in place of rows: each tier computes its exits' layers from the first on, and streams"
    if fails:
        return Beside("token ids", what, None, None, None, None, None, tuple(fails))
    return Beside("token ids", what, float(group.quality[index]), latency, cost, power, group.made.flops, ())


def _apart(law: ExitLaw, group: Group, index: int) -> Beside:
    """Dense models of the exits' own sizes, all on as many tokens as the same budget gives them together."""
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
    return Beside("trained apart", what, float(losses @ group.shares), None, None, None, made.flops, ())
