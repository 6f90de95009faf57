"""The loss of each exit by its depth, runs and law."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.approaches import budgets
from scaling.errors import ScalingError
from scaling.law import FittedLaw, Prediction
from scaling.plotparts import EXIT_LOSS, compute_label, handle, marker_of, number_label, shades
from scaling.runs import IntArray, Runs

MOST_BUDGETS = 4
MOST_KINDS = 3
"""Rows of panels."""
DENSE: dict[str, Any] = {
    "marker": "*",
    "markersize": 9,
    "color": "white",
    "markeredgecolor": "black",
    "linestyle": "",
    "zorder": 1.5,
}
BAND: dict[str, Any] = {"color": "black", "alpha": 0.07, "linewidth": 0}
LAW: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
Depths = tuple[float, ...]
"""Where the exits of a run are, layer / layers."""


@dataclass(frozen=True, eq=False)
class _Exits:
    """Rows of (run, exit) with what the law says of them."""

    rows: Runs
    law: Prediction
    placements: Mapping[int, Depths]
    """By run."""


def exits_picture(law: FittedLaw, rows: Runs) -> Figure:
    """Loss of each exit by its relative depth: a column for each budget, a row for each G, a line for each run.

    Of each budget the size is shown that has the most exits, with its dense runs. A law of whole runs is shown at G = 1
    and each exit's own size (M0), so that the distance of the points is interference.

    Raises:
        ScalingError: the rows do not say where their exits are, or none is of a family.
    """
    if rows.exit_layer is None or rows.n_layers is None or rows.n_exit is None:
        raise ScalingError("the runs do not say where their exits are and how large: layer, layers and n_exit")
    kinds = [float(g) for g in np.unique(rows.g) if g > 1][:MOST_KINDS]
    groups = [index for index in budgets(rows.c) if (rows.g[index] > 1).any()][-MOST_BUDGETS:]
    if not kinds:
        raise ScalingError("no run has more exits than one")
    shown = _Exits(rows, _predicted(law, rows), _placements(rows))
    figure = Figure(figsize=(2.4 * len(groups) + 2.2, 2.3 * len(kinds) + 0.9), layout="constrained")
    panels = figure.subplots(len(kinds), len(groups), sharex=True, sharey="col", squeeze=False)
    for column, index in enumerate(groups):
        chosen = _one_size(rows, index)
        size = number_label(float(rows.n[chosen].mean()))
        panels[0, column].set_title(f"{compute_label(float(rows.c[index].mean()))}, N = {size}", fontsize=9)
        panels[-1, column].set_xlabel("depth of the exit, layer / layers")
        for row, g in enumerate(kinds):
            _panel(panels[row, column], shown, chosen, g)
            panels[row, column].tick_params(bottom=row == len(kinds) - 1)
        panels[0, column].locator_params(nbins=4, min_n_ticks=3)
    for row, g in enumerate(kinds):
        panels[row, 0].set_ylabel(f"G = {g:g}\n{EXIT_LOSS}")
        styles = _styles(shown, g)
        handles = [handle(_words(depths), color=c, marker=m, markersize=4) for depths, (c, m) in styles.items()]
        if not row:
            name = f"the law, {law.form.name}" if law.form.needs else "the law at G = 1\nof the exit's size"
            handles += [handle(name, **LAW), handle("dense runs", **DENSE)]
        panels[row, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    panels[0, 0].set_xlim(0, 1.05)
    return figure


def _panel(panel: Axes, shown: _Exits, chosen: IntArray, g: float) -> None:
    rows, styles = shown.rows, _styles(shown, g)
    told: set[tuple[Depths, float]] = set()
    assert rows.exit_layer is not None and rows.n_layers is not None
    for run in np.unique(rows.cluster[chosen]):
        mine = chosen[(rows.cluster[chosen] == run)]
        mine = mine[np.argsort(rows.exit_layer[mine])]
        depth = rows.exit_layer[mine] / rows.n_layers[mine]
        if rows.g[mine[0]] == 1:
            panel.plot(depth, rows.loss[mine], **DENSE)
        elif rows.g[mine[0]] == g:
            colour, marker = styles[shown.placements[int(run)]]
            point = (shown.placements[int(run)], float(rows.d[mine[0]]))
            if point not in told:  # runs that differ in their seed have one law
                told.add(point)
                panel.fill_between(depth, shown.law.low[mine], shown.law.high[mine], **BAND)
                panel.plot(depth, shown.law.loss[mine], **LAW)
            panel.plot(depth, rows.loss[mine], color=colour, marker=marker, markersize=4, linewidth=1)


def _predicted(law: FittedLaw, rows: Runs) -> Prediction:
    """The law's loss of every row, or for a law of runs that of a dense model of the exit's size."""
    if law.form.needs:
        return law.predict_runs(rows)
    assert rows.n_exit is not None
    return law.predict(rows.n_exit, rows.d)


def _one_size(rows: Runs, index: IntArray) -> IntArray:
    """Of the rows of a budget, those of the size with the most exits there; of several, that with the most anywhere."""
    size = np.round(np.log(rows.n), 2)
    families = rows.g > 1
    here, everywhere = size[index][families[index]], size[families]
    best = max(np.unique(here), key=lambda one: ((here == one).sum(), (everywhere == one).sum()))
    chosen: IntArray = index[size[index] == best]
    return chosen


def _placements(rows: Runs) -> dict[int, Depths]:
    assert rows.exit_layer is not None and rows.n_layers is not None
    depth = np.round(rows.exit_layer / rows.n_layers, 3)
    return {int(run): tuple(np.sort(depth[rows.cluster == run]).tolist()) for run in np.unique(rows.cluster)}


def _styles(shown: _Exits, g: float) -> dict[Depths, tuple[str, str]]:
    """Colour and marker of each placement of a G, the earliest first."""
    of_kind = {shown.placements[int(run)] for run in shown.rows.cluster[shown.rows.g == g]}
    ordered = sorted(of_kind, key=lambda depths: (sum(depths), depths))
    colours = shades(len(ordered))
    return {depths: (colours[i], marker_of(i)) for i, depths in enumerate(ordered)}


def _words(depths: Depths) -> str:
    return f"exits at {', '.join(f'{depth:.3g}' for depth in depths)}"
