"""Pictures of a law alone: the loss surface (arXiv 2512.23407, Figure 1) and the bootstrap's draws."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scaling.errors import ScalingError
from scaling.forms import SCALES
from scaling.frontier import LAST, surface
from scaling.law import LEVEL, FittedLaw
from scaling.plotparts import (
    BLUE,
    LAST_LOSS,
    LOSS,
    MEAN_LOSS,
    TOKENS,
    granularity_label,
    powers_axis,
    shades,
    size_label,
)
from scaling.runs import FloatArray

SURFACE_EXITS = (1.0, 2.0, 4.0, 8.0)
"""G of the surfaces, where the runs had families of it; with the least and the greatest that they had."""
MESH = 9
"""Lines of a surface in each direction."""
MOST_POINTS = 1000
"""Draws that a pair of parameters shows."""
INNER = (0.05, 0.95)
"""The quantiles of the draws between which ..."""
MARGIN = 0.5
"""... an axis reaches, and this much of their distance beyond: a draw that ran away does not squeeze all others."""


def surface_picture(law: FittedLaw) -> Figure:
    """The loss over log N and log D, a surface for each G; of a law of exits, that of the last exit."""
    figure = Figure(figsize=(6.4, 4.6))
    axes = figure.add_axes((-0.01, -0.05, 1.03, 1.17), projection="3d")
    exits = _exits(law)
    n, d = (np.geomspace(law.data.ranges[name][0], law.data.ranges[name][1], MESH) for name in ("n", "d"))
    losses = [surface(law.form, law.theta[None], g, LAST).loss(n[:, None], d) for g in exits]
    colours = shades(len(exits))
    for loss, colour in zip(losses, colours, strict=True):
        _sheet(axes, np.log10(n), np.log10(d), loss, colour)
    axes.set_xlabel(size_label(law.conventions), labelpad=6)
    axes.set_ylabel(TOKENS, labelpad=6)
    axes.zaxis.set_rotate_label(False)  # type: ignore[attr-defined]
    loss_label = LAST_LOSS if law.form.needs else MEAN_LOSS if exits[-1] > 1 else LOSS
    axes.set_zlabel(loss_label, rotation=90)  # type: ignore[attr-defined]
    for axis, values in ((axes.xaxis, n), (axes.yaxis, d)):
        powers_axis(axis, float(values[0]), float(values[-1]))
    axes.view_init(elev=16, azim=50)  # type: ignore[attr-defined]
    handles = [
        Patch(
            facecolor=colour, edgecolor=colour, alpha=0.7, label=f"{granularity_label(law, g)}{_rise(loss / losses[0])}"
        )
        for g, colour, loss in zip(exits, colours, losses, strict=True)
    ]
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.99, 0.99))
    return figure


def _sheet(axes: Axes, x: FloatArray, y: FloatArray, loss: FloatArray, colour: str) -> None:
    """One surface: a mesh that can be looked through, with a thick edge."""
    axes.plot_surface(  # type: ignore[attr-defined]
        x[:, None], y[None], loss, color=to_rgba(colour, 0.1), linewidth=0.5, edgecolor=colour, shade=False
    )
    first, last = np.full_like(x, x[0]), np.full_like(x, x[-1])
    for along, across, height in (
        (x, np.full_like(x, y[0]), loss[:, 0]),
        (x, np.full_like(x, y[-1]), loss[:, -1]),
        (first, y, loss[0]),
        (last, y, loss[-1]),
    ):
        axes.plot(along, across, height, color=colour, linewidth=1.8)


def _exits(law: FittedLaw) -> tuple[float, ...]:
    """The G to show: one where the law does not know of it."""
    if "gamma" not in law.form.parameters:
        return (1.0,)
    low, high = law.data.ranges["g"]
    return tuple(sorted({low, high, *(g for g in SURFACE_EXITS if low < g < high)}))


def _rise(ratio: FloatArray) -> str:
    """How much higher than the first a surface is: `, +2.9%`, or from and to where that is not the same everywhere."""
    low, high = (f"{100 * (end - 1):+.1f}%" for end in (ratio.min(), ratio.max()))
    if ratio.min() == ratio.max() == 1:
        return ""
    return f", {low}" if low == high else f", {low} to {high}"


def pairs_picture(law: FittedLaw) -> Figure:
    """The bootstrap's draws, each pair of parameters and each one alone.

    Raises:
        ScalingError: the law has none.
    """
    if len(law.draws) < 2:
        raise ScalingError("the law has no bootstraps; fit it again without --bootstraps 0")
    count = len(law.theta)
    draws, centre = (_shown(law, theta) for theta in (law.draws, law.theta[None]))
    found = {of.name: of for of in law.estimates()}
    natural = np.array([(found[name].low, found[name].high) for name in law.form.natural_names])
    with np.errstate(all="ignore"):  # an exponent may be negative
        ends = np.where(_scaled(law)[:, None], np.log10(natural), natural)
    low, high = np.quantile(draws, INNER, axis=0)
    reach = MARGIN * np.maximum(high - low, 1e-12)
    limits = np.stack([np.maximum(draws.min(axis=0), low - reach), np.minimum(draws.max(axis=0), high + reach)])
    beyond = int(((draws < limits[0]) | (draws > limits[1])).any(axis=1).sum())
    figure = Figure(figsize=(1.45 * count, 1.45 * count), layout="constrained")
    panels = figure.subplots(count, count, sharex="col", squeeze=False)
    for row in range(count):
        for column in range(count):
            panel = panels[row, column]
            if column > row:
                panel.set_visible(False)
                continue
            _frame(panel, limits[:, column], centre[0, column])
            if column == row:
                _alone(panel, draws[:, row], limits[:, row], ends[row])
            else:
                _pair(panel, draws[:, [column, row]], limits[:, row], centre[0, row], first=column == 0)
        panels[-1, row].set_xlabel(_symbol(law, row))
        if row:
            panels[row, 0].set_ylabel(_symbol(law, row))
    figure.align_labels()
    out = f"; {beyond:,} lie outside a panel" if beyond else ""
    figure.suptitle(
        f"{len(draws):,} bootstraps of the runs{out}\nlines: the fit; dashed: its {LEVEL:.0%} interval", fontsize=10
    )
    return figure


def _scaled(law: FittedLaw) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which parameters are drawn as logarithms to base 10: A and B."""
    return np.array([name in SCALES[1:] for name in law.form.parameters])


def _shown(law: FittedLaw, theta: FloatArray) -> FloatArray:
    """θ as it is drawn: E, log10 A, log10 B, exponents."""
    shown = np.where(_scaled(law), theta / np.log(10), theta)
    shown[:, 0] = np.exp(theta[:, 0])
    return shown


def _frame(panel: Axes, limits: FloatArray, centre: float) -> None:
    if limits[0] < limits[1]:
        panel.set_xlim(*limits)
    panel.tick_params(labelsize=6)
    panel.locator_params(nbins=3)
    panel.axvline(centre, color="black", linewidth=0.9)


def _alone(panel: Axes, draws: FloatArray, limits: FloatArray, interval: FloatArray) -> None:
    panel.hist(
        draws,
        bins=np.linspace(limits[0], limits[1], 40).tolist() if limits[0] < limits[1] else 1,
        color=BLUE,
        alpha=0.6,
    )
    for end in interval:
        panel.axvline(end, color="black", linewidth=0.9, linestyle="--")
    panel.set_yticks([])


def _pair(panel: Axes, draws: FloatArray, limits: FloatArray, centre: float, first: bool) -> None:
    x, y = draws[:MOST_POINTS].T
    panel.plot(x, y, ".", color=BLUE, alpha=0.5, markersize=2.4, markeredgewidth=0, rasterized=True)
    panel.axhline(centre, color="black", linewidth=0.9)
    if limits[0] < limits[1]:
        panel.set_ylim(*limits)
    panel.tick_params(labelleft=first)


def _symbol(law: FittedLaw, index: int) -> str:
    name = law.form.natural_names[index]
    letter = f"${name}$" if len(name) == 1 else f"$\\{name}$"
    return f"$\\log_{{10}}$ {letter}" if _scaled(law)[index] else letter
