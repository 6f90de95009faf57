"""Pictures of a sweep: IsoFLOP profiles by granularity, and the loss of each exit by its depth."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from training.sweep.errors import SweepError
from training.sweep.plan import DENSE
from training.sweep.rows import Row

PROFILES_NAME, EXITS_NAME = "profiles.png", "exits.png"
K = TypeVar("K", int, float, str)


def plot_sweep(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `profiles.png` and `exits.png` into a folder; gives their paths.

    Raises:
        SweepError: there is no dense or evenly placed run with a loss.
    """
    found = [row for row in rows if row.loss is not None]
    isoflop = [row for row in found if row.depth_of is None and row.placement in (DENSE, "even")]
    if not isoflop:
        raise SweepError(f"{folder}: no finished runs to plot; do some with: sweep-family run {folder}")
    from matplotlib.figure import Figure

    profiles, exits = Figure(figsize=(11, 4.5), layout="constrained"), Figure(figsize=(11, 4.5), layout="constrained")
    _profiles(profiles, isoflop)
    _exits(exits, found)
    paths = [folder / PROFILES_NAME, folder / EXITS_NAME]
    for figure, path in zip((profiles, exits), paths, strict=True):
        figure.savefig(path, dpi=150)
    return paths


def _profiles(figure: Any, rows: Sequence[Row]) -> None:
    """Mean loss over exits against N, a panel for each G, a line for each budget."""
    by_granularity = _groups(rows, lambda row: row.granularity)
    panels = figure.subplots(1, len(by_granularity), sharey=True, squeeze=False)[0]
    for panel, (granularity, group) in zip(panels, by_granularity.items(), strict=True):
        for budget, points in _groups(group, lambda row: row.budget_flops).items():
            n, loss = _means((row.parameters, row.loss or 0.0) for row in points)
            panel.plot(n, loss, "o-", label=f"{budget:.1e} FLOPs")
        panel.set(xscale="log", xlabel="N, parameters", title=f"G = {granularity}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean loss over exits, nats per token")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")


def _exits(figure: Any, rows: Sequence[Row]) -> None:
    """Loss of each exit against its depth, a panel for each budget, at the width with the most kinds of runs."""
    by_budget = _groups(rows, lambda row: row.budget_flops)
    colours = {kind: f"C{i}" for i, kind in enumerate(_groups(rows, _kind))}
    panels = figure.subplots(1, len(by_budget), sharey=True, squeeze=False)[0]
    shown = {}
    for panel, (budget, group) in zip(panels, by_budget.items(), strict=True):
        widths = _groups(group, lambda row: row.d_model)
        width, chosen = max(widths.items(), key=lambda item: len({_kind(row) for row in item[1]}))
        for kind, same in _groups(chosen, _kind).items():
            pairs = [pair for row in same for pair in zip(row.exit_layers, row.exit_losses, strict=True)]
            layers, loss = _means(pairs)
            style = "*" if kind.startswith("dense") else "o-"
            (shown[kind],) = panel.plot(layers, loss, style, color=colours[kind], markersize=5)
        panel.set(xlabel="layers under the exit", title=f"{budget:.1e} FLOPs\nd_model {width}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("loss of the exit, nats per token")
    figure.legend([shown[kind] for kind in sorted(shown)], sorted(shown), loc="outside right upper")


def _kind(row: Row) -> str:
    if row.depth_of is not None:
        return "dense, a family's tokens"
    return "dense" if row.granularity == 1 else f"G = {row.granularity}, {row.placement}"


def _groups(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    groups: dict[K, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(sorted(groups.items(), key=lambda item: item[0]))


def _means(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Sorted x, and the mean of y at each (over seeds)."""
    by_x: dict[float, list[float]] = defaultdict(list)
    for x, y in points:
        by_x[x].append(y)
    xs = sorted(by_x)
    return xs, [float(np.mean(by_x[x])) for x in xs]
