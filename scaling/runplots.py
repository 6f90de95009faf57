"""Pictures of runs beside their law: IsoFLOP profiles and residuals."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaling.approaches import POINTS, Profile, budgets, profiles
from scaling.errors import ScalingError
from scaling.frontier import surface
from scaling.law import FittedLaw
from scaling.plotparts import (
    LOSS,
    MEAN_LOSS,
    TOKENS,
    compute_label,
    handle,
    log_axis,
    marker_of,
    percent_axis,
    shades,
    size_label,
)
from scaling.runs import FloatArray, Runs

MOST_PANELS = 4
MOST_BUDGETS = 8
SIZES_PER_OCTAVE = 2
"""Sizes nearer to each other than this count as one when budgets are chosen."""
MINIMUM: dict[str, Any] = {
    "marker": "*",
    "markersize": 10,
    "color": "white",
    "markeredgecolor": "black",
    "linestyle": "",
}
LAW_MINIMUM: dict[str, Any] = {"marker": "x", "markersize": 5, "color": "black", "linestyle": ""}
POINT: dict[str, Any] = {"markersize": 4.5, "markeredgewidth": 0, "alpha": 0.85}


def profiles_picture(law: FittedLaw, runs: Runs) -> Figure:
    """Loss by N at each budget, a panel for each G: parabolas with their minima, and the law dotted with its own.

    The budgets with the most different sizes are shown, and each G that has three of them at one budget.

    Raises:
        ScalingError: there is no such budget.
    """
    found = {g: _shown(runs.take(runs.g == g)) for g in np.unique(runs.g)}
    found = {g: shown for g, shown in found.items() if shown}
    if not found:
        raise ScalingError(f"at no budget (C within 10%) and G are there {POINTS} sizes")
    exits = sorted(found)[:MOST_PANELS]
    every = [profile for g in exits for profile in found[g]]
    groups = budgets(np.array([profile.c for profile in every]))
    groups = sorted(groups, key=lambda group: -max(_sizes(every[i]) for i in group))[:MOST_BUDGETS]
    order = sorted(float(np.exp(np.mean([np.log(every[i].c) for i in group]))) for group in groups)
    colours = shades(len(order))
    figure = Figure(figsize=(max(5.6, 2.9 * len(exits) + 1.6), 4.2), layout="constrained")
    panels = figure.subplots(1, len(exits), sharex=True, sharey=True, squeeze=False)[0]
    for panel, g in zip(panels, exits, strict=True):
        for profile in found[g]:
            nearest = int(np.argmin(np.abs(np.log(order) - np.log(profile.c))))
            if any(profile is every[i] for group in groups for i in group):
                _profile(panel, law, profile, float(g), colours[nearest], marker_of(nearest))
        panel.set(xscale="log", xlabel=size_label(law.conventions), title=f"G = {g:g}")
    log_axis(panels[0].xaxis)
    panels[0].set_ylabel(MEAN_LOSS if exits[-1] > 1 else LOSS)
    handles = [
        handle(compute_label(c), color=colour, marker=marker_of(i), markersize=3.5)
        for i, (c, colour) in enumerate(zip(order, colours, strict=True))
    ]
    handles = [*handles[::-1], handle("parabola's minimum", **MINIMUM)]
    if not law.form.needs:
        handles.append(handle("the law at the runs' D", color="black", linestyle=":"))
        handles.append(handle("its minimum", **LAW_MINIMUM))
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _sizes(profile: Profile) -> int:
    """How many sizes a profile has that are not almost the same."""
    return len(np.unique(np.floor(SIZES_PER_OCTAVE * np.log2(profile.n))))


def _shown(runs: Runs) -> list[Profile]:
    return [profile for profile in profiles(runs) if _sizes(profile) >= POINTS]


def _profile(panel: Axes, law: FittedLaw, profile: Profile, g: float, colour: str, marker: str) -> None:
    """One budget: points, the parabola where it opens upwards, and the law."""
    panel.plot(profile.n, profile.loss, marker, color=colour, markersize=3.5)
    n = np.geomspace(profile.n[0], profile.n[-1], 60)
    if profile.coefficients[0] > 0:
        panel.plot(n, profile.at(n), color=colour, linewidth=1)
    if not law.form.needs:
        tokens = np.exp(np.interp(np.log(n), np.log(profile.n), np.log(profile.d)))
        loss = surface(law.form, law.theta[None], g).loss(n, tokens)[0]
        panel.plot(n, loss, ":", color=colour, linewidth=1)
        lowest = int(np.argmin(loss))
        if 0 < lowest < len(n) - 1:
            panel.plot(n[lowest], loss[lowest], **LAW_MINIMUM)
    if np.isfinite(profile.best):
        panel.plot(profile.best, profile.at(profile.best), **MINIMUM)


def residuals_picture(law: FittedLaw, runs: Runs) -> Figure:
    """Log of the run's loss over the law's, against N, D, C or the depth of the exit, and the law's loss."""
    figure = Figure(figsize=(8.2, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).ravel()
    fitted = law.predict_runs(runs).loss
    residual = np.log(runs.loss / fitted)
    across = (
        ("log", size_label(law.conventions), runs.n),
        ("log", TOKENS, runs.d),
        _third(law, runs),
        ("linear", "loss of the law (nats per token)", fitted),
    )
    exits = np.unique(runs.g)
    colours = shades(len(exits))
    for panel, (scale, label, x) in zip(panels, across, strict=True):
        panel.axhspan(-2 * law.sigma, 2 * law.sigma, color="#BBBBBB", alpha=0.35, linewidth=0)
        panel.axhline(0, color="black", linewidth=0.7)
        for i, g in enumerate(exits):
            mine = runs.g == g
            panel.plot(x[mine], residual[mine], marker_of(i), color=colours[i], **POINT)
        panel.set(xscale=scale, xlabel=label)
        if scale == "log":
            log_axis(panel.xaxis)
        percent_axis(panel.yaxis)
    for panel in panels[::2]:
        panel.set_ylabel("log(loss / law)")
    handles = [
        handle(f"G = {g:g}", color=colours[i], marker=marker_of(i), linestyle="", **POINT) for i, g in enumerate(exits)
    ]
    band = handle(f"± 2 robust sigmas ({2 * law.sigma:.2%})", color="#BBBBBB", alpha=0.6, linewidth=8)
    figure.legend(handles=[*handles, band], loc="outside upper center", ncols=min(len(exits) + 1, 6))
    return figure


def _third(law: FittedLaw, runs: Runs) -> tuple[str, str, FloatArray]:
    """What an exit's law may miss is its depth; what a run's may, how it goes with compute."""
    if law.form.needs and runs.exit_layer is not None and runs.n_layers is not None:
        return "linear", "depth of the exit, layer / layers", runs.exit_layer / runs.n_layers
    return "log", "training compute C (FLOPs)", runs.c
