"""Pictures of a law: the loss surface and the frontier (arXiv 2512.23407, Figures 1 and 2), and its bootstrap draws."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scaling.forms import SCALES
from scaling.frontier import optimum, surface
from scaling.intervals import theta_draws
from scaling.law import LEVEL, FittedLaw
from scaling.plotparts import COLOURS, TOKENS, compute_label, log_axis, powers_axis, size_label
from scaling.runs import FLOPS_PER_PARAMETER, FloatArray

SURFACE_EXITS = (1.0, 2.0, 4.0)
GRID = 200
MESH = 13
"""Lines of a surface in each direction."""
MOST_DRAWS = 1000
"""Points of a pair of parameters."""


def surface_picture(law: FittedLaw) -> Figure:
    """The loss over log N and log D, a surface for each G."""
    figure = Figure(figsize=(6.4, 5.2))
    axes = figure.add_axes((0.02, 0.02, 0.9, 0.93), projection="3d")
    exits = SURFACE_EXITS if "gamma" in law.form.parameters else (1.0,)
    n, d = (np.geomspace(law.data.ranges[name][0], law.data.ranges[name][1], MESH) for name in ("n", "d"))
    for g, colour in zip(exits, COLOURS, strict=False):
        loss = surface(law.form, law.theta[None], g).loss(n[:, None], d)
        axes.plot_surface(  # type: ignore[attr-defined]
            np.log10(n)[:, None], np.log10(d)[None], loss, color=colour, alpha=0.3, linewidth=0.6, edgecolor=colour
        )
    axes.set_xlabel(size_label(law.conventions), labelpad=8)
    axes.set_ylabel(TOKENS, labelpad=8)
    axes.set_zlabel("loss (nats per token)")  # type: ignore[attr-defined]
    for axis, values in ((axes.xaxis, n), (axes.yaxis, d)):
        powers_axis(axis, float(values[0]), float(values[-1]))
    axes.view_init(elev=14, azim=50)  # type: ignore[attr-defined]
    axes.set_box_aspect(None, zoom=0.92)  # type: ignore[call-arg]
    handles = [Patch(color=colour, alpha=0.6, label=f"G = {g:g}") for g, colour in zip(exits, COLOURS, strict=False)]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.12, 0.9))
    return figure


def frontier_picture(law: FittedLaw, g: float = 3) -> Figure | None:
    """Contours of the loss over N and D, lines of equal 6ND, and the frontier with its band.

    Nothing where the law has no best size, since its loss rises with N or with D.
    """
    g = g if "gamma" in law.form.parameters else 1.0
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    at = surface(law.form, law.theta[None], g)
    (n_low, n_high), (d_low, d_high) = law.data.ranges["n"], law.data.ranges["d"]
    c = np.geomspace(FLOPS_PER_PARAMETER * n_low * d_low, 10 * FLOPS_PER_PARAMETER * n_high * d_high, GRID)
    best = optimum(at, c)
    if np.isnan(best.n).any():
        return None
    shown = (best.n[0] > n_low / 2) & (best.n[0] < n_high * 2) & (best.d[0] > d_low / 2) & (best.d[0] < d_high * 2)
    c = c[shown] if shown.sum() > 1 else c
    best = optimum(at, c)
    n = np.geomspace(min(n_low, best.n.min()) / 1.5, max(n_high, best.n.max()) * 1.5, GRID)
    d = np.geomspace(min(d_low, best.d.min()) / 1.5, max(d_high, best.d.max()) * 1.5, GRID)
    loss = at.loss(n[:, None], d).T  # (D, N)
    levels = np.unique(np.round(np.geomspace(best.loss.min() * 0.97, loss.max(), 12), 2))
    contours = axes.contour(n, d, loss, levels=levels, colors="#888888", linewidths=0.7)
    axes.clabel(contours, fontsize=7, fmt="%.2f")
    _isoflop_lines(axes, c, n, d)
    _band(axes, law, g, c, float(n[0]), float(n[-1]))
    axes.plot(best.n[0], best.d[0], color=COLOURS[0], linewidth=2)
    axes.set(xscale="log", yscale="log", xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    log_axis(axes.xaxis)
    log_axis(axes.yaxis)
    axes.set(xlabel=size_label(law.conventions), ylabel=TOKENS, title=f"G = {g:g}")
    handles = [
        Line2D([], [], color=COLOURS[0], linewidth=2, label="frontier: N*, D*"),
        Patch(color=COLOURS[0], alpha=0.2, label=f"its {LEVEL:.0%} interval along 6ND = C"),
        Line2D([], [], color="#888888", linewidth=0.7, label="equal loss (nats per token)"),
        Line2D([], [], color=COLOURS[1], linewidth=0.8, linestyle="--", label="equal C = 6ND (FLOPs)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _isoflop_lines(axes: Axes, c: FloatArray, n: FloatArray, d: FloatArray) -> None:
    """Dashed lines at whole powers of ten, with their budgets at the upper ends."""
    for power in range(int(np.ceil(np.log10(c[0]))), int(np.floor(np.log10(c[-1]))) + 1):
        line = 10.0**power / FLOPS_PER_PARAMETER / n
        axes.plot(n, line, color=COLOURS[1], linewidth=0.8, linestyle="--")
        end = int(np.argmax(line < d[-1] / 1.3))
        inside = n[end] < n[-1] / 1.5
        if inside and line[end] > d[0] * 1.5:
            place = (max(n[end], n[0] * 1.1), line[end])
            axes.annotate(compute_label(10.0**power), place, color=COLOURS[1], fontsize=7, va="bottom", ha="left")


def _band(axes: Axes, law: FittedLaw, g: float, c: FloatArray, n_low: float, n_high: float) -> None:
    """The interval of N* on each line of equal C, where the law has one."""
    if len(law.draws) < 2 and law.covariance is None:
        return
    sizes = optimum(surface(law.form, theta_draws(law), g), c).n
    missing = np.isnan(sizes)
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = (
        np.clip(np.quantile(np.where(missing, end, sizes), tail, axis=0), n_low / 10, n_high * 10)
        for tail, end in zip(tails, (0.0, np.inf), strict=True)
    )
    edge = np.concatenate([low, high[::-1]])
    budgets = np.concatenate([c, c[::-1]])
    axes.fill(edge, budgets / FLOPS_PER_PARAMETER / edge, color=COLOURS[0], alpha=0.2, linewidth=0)


def pairs_picture(law: FittedLaw) -> Figure | None:
    """The bootstrap's draws, each pair of parameters and each one alone; nothing where there are none."""
    if len(law.draws) < 2:
        return None
    names = [f"log10 {name}" if i and i < len(SCALES) else name for i, name in enumerate(law.form.natural_names)]
    draws, centre = (_shown(theta) for theta in (law.draws, law.theta[None]))
    count = len(names)
    figure = Figure(figsize=(1.45 * count, 1.45 * count), layout="constrained")
    panels = figure.subplots(count, count, sharex="col", squeeze=False)
    limits = np.quantile(draws, (0.002, 0.998), axis=0)
    for row in range(count):
        for column in range(count):
            _pair(panels[row, column], draws, centre[0], limits, row, column)
        panels[-1, row].set_xlabel(_greek(names[row]))
        if row:
            panels[row, 0].set_ylabel(_greek(names[row]))
    figure.align_labels()
    figure.suptitle(f"{len(law.draws):,} bootstraps of the runs; orange: the fit")
    return figure


def _shown(theta: FloatArray) -> FloatArray:
    """θ as it is drawn: E, log10 A, log10 B, exponents."""
    shown = theta.copy()
    shown[:, 0] = np.exp(theta[:, 0])
    shown[:, 1 : len(SCALES)] = theta[:, 1 : len(SCALES)] / np.log(10)
    return shown


def _pair(panel: Axes, draws: FloatArray, centre: FloatArray, limits: FloatArray, row: int, column: int) -> None:
    if column > row:
        panel.set_visible(False)
        return
    low, high = limits[:, column]
    if low < high:
        panel.set_xlim(low, high)
    panel.tick_params(labelsize=6)
    panel.locator_params(nbins=3)
    panel.axvline(centre[column], color=COLOURS[1], linewidth=0.8)
    if row == column:
        bins = np.linspace(low, high, 40).tolist() if low < high else 1
        panel.hist(draws[:, column], bins=bins, color=COLOURS[0])
        panel.set_yticks([])
        return
    panel.plot(draws[:MOST_DRAWS, column], draws[:MOST_DRAWS, row], ".", color=COLOURS[0], alpha=0.3, markersize=1.5)
    panel.axhline(centre[row], color=COLOURS[1], linewidth=0.8)
    if limits[0, row] < limits[1, row]:
        panel.set_ylim(*limits[:, row])
    if column:
        panel.tick_params(labelleft=False)


def _greek(name: str) -> str:
    if name in ("alpha", "beta", "gamma", "delta", "eta"):
        return f"$\\{name}$"
    return name.replace("log10", "$\\log_{10}$")
