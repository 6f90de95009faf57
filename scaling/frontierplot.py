"""The compute-optimal frontier in the plane of N and D (arXiv 2512.23407, Figure 2)."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scaling.errors import ScalingError
from scaling.frontier import LAST, optimum, surface
from scaling.intervals import interval
from scaling.law import LEVEL, FittedLaw
from scaling.plotparts import (
    BLUE,
    GREY,
    ORANGE,
    TOKENS,
    compute_label,
    granularity_label,
    handle,
    log_axis,
    size_label,
)
from scaling.runs import FLOPS_PER_PARAMETER, FloatArray, Runs

BOX = (0.125, 0.225, 0.85, 0.715)
SIZE = (6.4, 5.0)
"""Inches; the place of the axes is fixed, so that words can stand along lines."""
GRID = 200
BEYOND = 10
"""Times the runs' compute, how far the frontier is drawn."""
ASIDE = 30
"""Times the runs' sizes and tokens, how far it is drawn to either side."""
MARGIN = 1.4
LIFT = 0.006
"""Of the height, how far above its line a budget stands."""
LEVELS = 12


def frontier_picture(law: FittedLaw, g: float = 3, runs: Runs | None = None) -> Figure:
    """Contours of the loss over N and D, lines of equal 6ND, and the frontier with its interval.

    Args:
        law: of a run's loss, or of exits: then the last one's is shown.
        g: G, where the law knows of it.
        runs: marked, whatever their G.

    Raises:
        ScalingError: the law has no best size, since its loss rises with N or with D.
    """
    g = g if "gamma" in law.form.parameters else 1.0
    at = surface(law.form, law.theta[None], g, LAST)
    least, most = law.data.ranges["c"]
    c = np.geomspace(least, BEYOND * most, GRID)
    best = optimum(at, c)
    if np.isnan(best.n).any():
        raise ScalingError("the law has no best size: its loss rises with N or with D")
    n, d = (_axis(law.data.ranges[name], values[0]) for name, values in (("n", best.n), ("d", best.d)))
    loss = at.loss(n[:, None], d).T  # (D, N)
    figure = Figure(figsize=SIZE)
    axes = figure.add_axes(BOX)
    axes.set(xscale="log", yscale="log", xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    axes.grid(False)
    handles: list[Artist] = [
        handle("frontier: N*, D*", color=BLUE, linewidth=2),
        handle("equal loss (nats per token)", color=GREY, linewidth=0.8),
        handle("equal C = 6ND", color=ORANGE, linewidth=0.9, linestyle="--"),
    ]
    _contours(axes, n, d, loss)
    _isoflop_lines(axes, n, d, (float(c[0]), float(c[-1])))
    if len(law.draws) > 1 or law.covariance is not None:
        _band(axes, law, g, c)
        handles.insert(1, Patch(color=BLUE, alpha=0.25, label=f"its {LEVEL:.0%} interval along 6ND = C"))
    within = c <= most
    axes.plot(best.n[0][within], best.d[0][within], color=BLUE, linewidth=2)
    axes.plot(best.n[0][~within], best.d[0][~within], color=BLUE, linewidth=2, linestyle=(0, (1, 1)))
    handles.insert(1, handle("beyond the runs' compute", color=BLUE, linewidth=2, linestyle=(0, (1, 1))))
    if runs is not None:
        axes.plot(runs.n, runs.d, "o", color="black", markersize=2.5, markeredgewidth=0, alpha=0.6, zorder=3)
        label = "the runs" if runs.g.max() == 1 else "the runs, every G"
        handles.append(handle(label, color="black", marker="o", markersize=2.5, linestyle=""))
    for axis in (axes.xaxis, axes.yaxis):
        log_axis(axis)
    axes.set(
        xlabel=size_label(law.conventions),
        ylabel=TOKENS,
        title=granularity_label(law, g),
    )
    figure.legend(handles=handles, loc="lower center", ncols=2)
    return figure


def _axis(known: tuple[float, ...], best: FloatArray) -> FloatArray:
    """Values from the least to the greatest of the runs and of the frontier, which may lead far away."""
    low, high = known[0], known[-1]
    start = max(min(low, float(best.min())), low / ASIDE) / MARGIN
    end = min(max(high, float(best.max())), high * ASIDE) * MARGIN
    return np.geomspace(start, end, GRID)


def _contours(axes: Axes, n: FloatArray, d: FloatArray, loss: FloatArray) -> None:
    """Lines of equal loss, with their losses near the right and the lower edge."""
    levels = np.unique(np.round(np.geomspace(loss.min(), loss.max(), LEVELS + 2)[1:-1], 2))
    drawn = axes.contour(n, d, loss, levels=levels, colors=GREY, linewidths=0.8)
    column, row = int(0.93 * GRID), int(0.05 * GRID)
    places = []
    for level in levels:
        if loss[-row, column] < level < loss[2 * row, column]:  # the loss falls with D
            places.append((n[column], np.exp(np.interp(-level, -loss[:, column], np.log(d)))))
        elif loss[row, column] < level < loss[row, row]:
            places.append((np.exp(np.interp(-level, -loss[row], np.log(n))), d[row]))
    axes.clabel(drawn, fontsize=7, fmt="%.2f", manual=places)


def _isoflop_lines(axes: Axes, n: FloatArray, d: FloatArray, ends: tuple[float, float]) -> None:
    """Lines of equal 6ND at powers of ten (and three times these where they are few), each with its budget along it."""
    low, high = np.log(n[-1] / n[0]), np.log(d[-1] / d[0])
    angle = -float(np.degrees(np.arctan2(BOX[3] * SIZE[1] / high, BOX[2] * SIZE[0] / low)))
    powers = 10.0 ** np.arange(np.floor(np.log10(ends[0])), np.ceil(np.log10(ends[1])) + 1)
    budgets = powers[(powers >= ends[0]) & (powers <= ends[1])]
    if len(budgets) < 3:
        every = np.sort(np.concatenate([powers, 3 * powers]))
        budgets = every[(every >= ends[0]) & (every <= ends[1])]
    for budget in budgets:
        product = budget / FLOPS_PER_PARAMETER
        axes.plot(n, product / n, color=ORANGE, linewidth=0.9, linestyle="--")
        start, end = np.log(max(n[0], product / d[-1])), np.log(min(n[-1], product / d[0]))
        if end - start > 0.25 * low:
            size = float(np.exp(start + 0.03 * low))
            axes.text(
                size,
                product / size * np.exp(LIFT * high),
                compute_label(budget),
                rotation=angle,
                rotation_mode="anchor",
                va="bottom",
                color=ORANGE,
                fontsize=7,
                zorder=2.1,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0},
            )


def _band(axes: Axes, law: FittedLaw, g: float, c: FloatArray) -> None:
    """The interval of N* on each line of equal C."""
    with np.errstate(all="ignore"):  # of draws whose A is beyond all numbers
        found = interval(law, lambda theta: optimum(surface(law.form, theta, g, LAST), c).n)
    left, right = axes.get_xlim()
    low, high = (np.clip(end, left / ASIDE, right * ASIDE) for end in (found.low, found.high))
    edge, budgets = np.concatenate([low, high[::-1]]), np.concatenate([c, c[::-1]])
    axes.fill(edge, budgets / FLOPS_PER_PARAMETER / edge, color=BLUE, alpha=0.25, linewidth=0)
