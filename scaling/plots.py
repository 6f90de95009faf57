"""`draw`: pictures of a law and its runs, as PNG and SVG, without a display."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scaling.law import FittedLaw
from scaling.lawplots import frontier_picture, pairs_picture, surface_picture
from scaling.runplots import exits_picture, profiles_picture, residuals_picture
from scaling.runs import Runs

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # words stay words: to be searched, and set in the paper's font
    "svg.hashsalt": "familial",  # the same picture is the same file
}
DOTS_PER_INCH = 200


def draw(law: FittedLaw, folder: Path, runs: Runs | None = None, exits: Runs | None = None, g: float = 3) -> list[Path]:
    """Write every picture for which there is something to show; gives the files' paths.

    Args:
        law: the law.
        folder: where to; made if it is not there.
        runs: one row for each run, for profiles and residuals.
        exits: one row for each exit, for the loss by depth, and residuals of an exit's law.
        g: G of the frontier, where the law knows G.
    """
    of_exit = bool(law.form.needs)
    fitted = exits if of_exit else runs
    pictures: dict[str, Callable[[], Figure | None]] = {"bootstrap": lambda: pairs_picture(law)}
    if not of_exit:
        pictures |= {"surface": lambda: surface_picture(law), "frontier": lambda: frontier_picture(law, g)}
    if runs is not None:
        pictures["profiles"] = lambda: profiles_picture(law, runs)
    if fitted is not None:
        pictures["residuals"] = lambda: residuals_picture(law, fitted)
    if exits is not None:
        pictures["exits"] = lambda: exits_picture(law, exits)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [path for name, picture in pictures.items() for path in _save(picture(), folder / name)]


def _save(figure: Figure | None, stem: Path) -> list[Path]:
    if figure is None:
        return []
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(png, dpi=DOTS_PER_INCH)
    figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
