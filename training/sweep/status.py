"""How far a sweep is, and what is left of it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from training.sweep.plan import Plan, Run
from training.sweep.rows import Row


@dataclass(frozen=True)
class BudgetStatus:
    """One IsoFLOP group, with the dense partners that its families have."""

    budget_flops: float
    runs: int
    done: int
    diverged: int


@dataclass(frozen=True)
class Status:
    """A sweep's progress."""

    runs: int
    done: int
    flops: float
    """Of all runs."""
    flops_left: float
    seconds_left: float | None
    """Of one worker, by the rates of the finished runs; None before the first."""
    budgets: tuple[BudgetStatus, ...]


def sweep_status(plan: Plan, rows: Sequence[Row]) -> Status:
    """Where a plan stands, given its rows (others are ignored)."""
    done = {row.id: row for row in rows}
    groups: dict[float, list[Run]] = defaultdict(list)
    for run in plan.runs:
        groups[run.budget_flops].append(run)
    left = [run for run in plan.runs if run.id not in done]
    return Status(
        runs=len(plan.runs),
        done=len(plan.runs) - len(left),
        flops=sum(plan.flops(run) for run in plan.runs),
        flops_left=sum(plan.flops(run) for run in left),
        seconds_left=_seconds(plan, left, rows),
        budgets=tuple(
            BudgetStatus(
                budget_flops=budget,
                runs=len(runs),
                done=sum(1 for run in runs if run.id in done),
                diverged=sum(1 for run in runs if run.id in done and done[run.id].loss is None),
            )
            for budget, runs in sorted(groups.items())
        ),
    )


def status_table(status: Status) -> str:
    """The status for a person."""
    lines = [f"{'budget':>10} {'runs':>5} {'done':>5} {'diverged':>9}"]
    lines += [f"{b.budget_flops:>10.3g} {b.runs:>5} {b.done:>5} {b.diverged:>9}" for b in status.budgets]
    left = f"{status.runs - status.done} of {status.runs} runs left, {status.flops_left:.3g} FLOPs"
    if status.seconds_left is not None and status.done < status.runs:
        left += f", about {status.seconds_left / 60:.0f} minutes of one worker"
    return "\n".join([*lines, left])


def _seconds(plan: Plan, left: Sequence[Run], rows: Sequence[Row]) -> float | None:
    """A model's rate is that of the finished runs of its width, or of all: small ones are much less efficient."""
    if not rows:
        return None
    spent: dict[int | None, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        for key in (row.d_model, None):
            spent[key][0] += row.seconds
            spent[key][1] += row.flops
    per_flop = {key: seconds / flops for key, (seconds, flops) in spent.items()}
    return sum(plan.flops(run) * per_flop.get(run.size.d_model, per_flop[None]) for run in left)
