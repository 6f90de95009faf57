"""`draw`: pictures of a law and its runs, as PNG and SVG, without a display."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from family.files import write_atomic
from scaling.errors import ScalingError
from scaling.exitplot import exits_picture
from scaling.frontierplot import frontier_picture
from scaling.law import FittedLaw
from scaling.lawplots import pairs_picture, surface_picture
from scaling.runplots import profiles_picture, residuals_picture
from scaling.runs import Runs

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # words stay words: to be searched, and set in the paper's font
    "svg.hashsalt": "familial",  # the same picture is the same file
}
FORMATS: Mapping[str, Mapping[str, None]] = {"png": {}, "svg": {"Date": None}}
"""By format, what is not to be written into a file."""


@dataclass(frozen=True)
class Drawn:
    """What came of drawing."""

    files: tuple[Path, ...]
    left_out: Mapping[str, str]
    """By picture, why it was not drawn."""


def draw(law: FittedLaw, folder: Path, runs: Runs | None = None, exits: Runs | None = None, g: float = 3) -> Drawn:
    """Write every picture for which there is something to show.

    Args:
        law: the law.
        folder: where to; made if it is not there.
        runs: one row for each run, for profiles and residuals.
        exits: one row for each exit, for the loss by depth, and residuals of an exit's law.
        g: G of the frontier, where the law knows G.
    """
    fitted = exits if law.form.needs else runs
    pictures: dict[str, Callable[[], Figure]] = {
        "bootstrap": lambda: pairs_picture(law),
        "surface": lambda: surface_picture(law),
        "frontier": lambda: frontier_picture(law, g, runs),
    }
    if runs is not None:
        pictures["profiles"] = lambda: profiles_picture(law, runs)
    if fitted is not None:
        pictures["residuals"] = lambda: residuals_picture(law, fitted)
    if exits is not None:
        pictures["exits"] = lambda: exits_picture(law, exits)
    files: list[Path] = []
    left_out: dict[str, str] = {}
    with matplotlib.rc_context(STYLE):
        for name, picture in pictures.items():
            try:
                files += _save(picture(), folder / name)
            except ScalingError as nothing_to_show:
                left_out[name] = str(nothing_to_show)
    return Drawn(tuple(files), left_out)


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = []
    for kind, metadata in FORMATS.items():
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata=dict(metadata))
        paths.append(stem.with_suffix(f".{kind}"))
        write_atomic(paths[-1], content.getvalue())
    return paths
