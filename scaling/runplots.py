"""Pictures of runs beside their law: IsoFLOP profiles, residuals, and the loss of each exit by its depth."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scaling.approaches import POINTS, Profile, budgets, profiles
from scaling.frontier import surface
from scaling.law import FittedLaw
from scaling.plotparts import (
    EXIT_LOSS,
    MARKERS,
    MEAN_LOSS,
    TOKENS,
    colour_of,
    compute_label,
    log_axis,
    percent_axis,
    size_label,
)
from scaling.runs import FloatArray, IntArray, Runs

MOST_PANELS = 4
MOST_BUDGETS = 10


def profiles_picture(law: FittedLaw, runs: Runs) -> Figure | None:
    """Loss by N at each budget, a panel for each G; parabolas with their minima, and the law dotted.

    Budgets with fewer than three sizes are left out, of the others the fullest are shown.
    """
    groups = [index for index in budgets(runs.c) if len(np.unique(runs.n[index])) >= POINTS]
    groups = sorted(sorted(groups, key=len)[-MOST_BUDGETS:], key=lambda index: float(runs.c[index].mean()))
    if not groups:
        return None
    order = [float(np.exp(np.log(runs.c[index]).mean())) for index in groups]
    runs = runs.take(np.concatenate(groups))
    exits = np.unique(runs.g)[:MOST_PANELS]
    width = max(5.6, 3.1 * len(exits) + 1.4)
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    panels = figure.subplots(1, len(exits), sharey=True, squeeze=False)[0]
    for panel, g in zip(panels, exits, strict=True):
        for profile in profiles(runs.take(runs.g == g)):
            nearest = int(np.argmin(np.abs(np.log(order) - np.log(profile.c))))
            _profile(panel, law, profile, float(g), colour_of(nearest), MARKERS[nearest % len(MARKERS)])
        panel.set(xscale="log", xlabel=size_label(law.conventions), title=f"G = {g:g}")
        log_axis(panel.xaxis)
    panels[0].set_ylabel(MEAN_LOSS if exits.max() > 1 else "loss (nats per token)")
    handles = [
        Line2D([], [], color=colour_of(i), marker=MARKERS[i % len(MARKERS)], markersize=3.5, label=compute_label(c))
        for i, c in enumerate(order)
    ]
    handles.append(Line2D([], [], color="black", marker="*", markersize=9, linestyle="", label="parabola's minimum"))
    if not law.form.needs:
        handles.append(Line2D([], [], color="black", linestyle=":", label="the law at the runs' D"))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _profile(panel: Axes, law: FittedLaw, profile: Profile, g: float, colour: str, marker: str) -> None:
    panel.plot(profile.n, profile.loss, marker, color=colour, markersize=3.5)
    n = np.geomspace(profile.n[0], profile.n[-1], 60)
    if np.isfinite(profile.coefficients).all():
        panel.plot(n, profile.at(n), color=colour, linewidth=1)
    if np.isfinite(profile.best):
        panel.plot(profile.best, profile.at(profile.best), "*", color=colour, markersize=9, markeredgecolor="black")
    if not law.form.needs and len(profile.n) > 1:
        tokens = np.exp(np.interp(np.log(n), np.log(profile.n), np.log(profile.d)))
        panel.plot(n, surface(law.form, law.theta[None], g).loss(n, tokens)[0], ":", color=colour, linewidth=1)


def residuals_picture(law: FittedLaw, runs: Runs) -> Figure:
    """Log of the run's loss over the law's, against N, D, C and the law's loss."""
    figure = Figure(figsize=(8.2, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).ravel()
    fitted = law.predict_runs(runs).loss
    residual = np.log(runs.loss / fitted)
    across = (
        ("log", size_label(law.conventions), runs.n),
        ("log", TOKENS, runs.d),
        ("log", "training compute C (FLOPs)", runs.c),
        ("linear", "loss of the law (nats per token)", fitted),
    )
    exits = np.unique(runs.g)
    for panel, (scale, label, x) in zip(panels, across, strict=True):
        panel.axhspan(-2 * law.sigma, 2 * law.sigma, color="#BBBBBB", alpha=0.35, linewidth=0)
        panel.axhline(0, color="black", linewidth=0.7)
        for i, g in enumerate(exits):
            mine = runs.g == g
            panel.plot(x[mine], residual[mine], MARKERS[i % 7], color=colour_of(i), markersize=3.5, label=f"G = {g:g}")
        panel.set(xscale=scale, xlabel=label)
        if scale == "log":
            log_axis(panel.xaxis)
        percent_axis(panel.yaxis)
    for panel in panels[::2]:
        panel.set_ylabel("log(loss / law)")
    handles = [
        Line2D([], [], color=colour_of(i), marker=MARKERS[i % 7], linestyle="", markersize=4, label=f"G = {g:g}")
        for i, g in enumerate(exits)
    ]
    band = Line2D([], [], color="#BBBBBB", alpha=0.6, linewidth=8, label=f"± 2 robust sigmas ({2 * law.sigma:.2%})")
    figure.legend(handles=[*handles, band], loc="outside upper center", ncols=min(len(exits) + 1, 6))
    return figure


def exits_picture(law: FittedLaw, rows: Runs) -> Figure | None:
    """Loss of each exit by its relative depth: runs as points, the law as lines; a panel for each budget.

    Of each budget the size is shown that has the most exits. A law of whole runs is shown as a dense model of each
    exit's own size (M0), so that the distance of the points is interference.
    """
    if rows.exit_layer is None or rows.n_layers is None or rows.n_exit is None:
        return None
    groups = [index for index in budgets(rows.c) if (rows.g[index] > 1).any()][-MOST_PANELS:]
    if not groups:
        return None
    figure = Figure(figsize=(2.7 * len(groups) + 1.8, 3.8), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    fitted = _by_exit(law, rows)
    kinds = np.unique(rows.g)
    for panel, index in zip(panels, groups, strict=True):
        own = np.round(np.log(rows.n[index]), 2)
        sizes, counts = np.unique(own[rows.g[index] > 1], return_counts=True)
        chosen = index[own == sizes[np.argmax(counts)]]
        _exits(panel, rows, fitted, chosen, kinds)
        panel.set_title(f"{compute_label(float(rows.c[index].mean()))}\nN = {rows.n[chosen].mean():.3g}", fontsize=9)
    panels[0].set_ylabel(EXIT_LOSS)
    handles = [
        Line2D([], [], color=colour_of(i), marker=MARKERS[i % 7], linestyle="", markersize=4, label=f"runs, G = {g:g}")
        for i, g in enumerate(kinds)
    ]
    name = law.form.name if law.form.needs else "the law at G = 1\nof each exit's size"
    handles.append(Line2D([], [], color="black", linewidth=1, label=name))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _exits(panel: Axes, rows: Runs, fitted: FloatArray, chosen: IntArray, kinds: FloatArray) -> None:
    """One panel."""
    assert rows.exit_layer is not None and rows.n_layers is not None
    for i, g in enumerate(kinds):
        for cluster in np.unique(rows.cluster[chosen]):
            mine = chosen[(rows.cluster[chosen] == cluster) & (rows.g[chosen] == g)]
            mine = mine[np.argsort(rows.exit_layer[mine])]
            depth = rows.exit_layer[mine] / rows.n_layers[mine]
            panel.plot(depth, rows.loss[mine], MARKERS[i % 7], color=colour_of(i), markersize=4)
            if g > 1:
                panel.plot(depth, fitted[mine], "-", color=colour_of(i), linewidth=1)
    low, high = rows.loss[chosen].min(), rows.loss[chosen].max()
    margin = max(0.25 * (high - low), 0.005 * high)  # a law that is far off leaves the panel, and the runs stay legible
    panel.set(xlabel="depth of the exit, layer / layers", xlim=(0, 1.05), ylim=(low - margin, high + margin))


def _by_exit(law: FittedLaw, rows: Runs) -> FloatArray:
    """The law's loss of every row, or for a law of runs that at G = 1 of a dense model of the exit's size."""
    if law.form.needs:
        return law.predict_runs(rows).loss
    assert rows.n_exit is not None
    fitted: FloatArray = surface(law.form, law.theta[None]).loss(rows.n_exit, rows.d)[0]
    return fitted
