"""Pictures: every one that there is something to show for is written, and what it shows is the law's and the runs'."""

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from scaling.approaches import profiles
from scaling.errors import ScalingError
from scaling.exitplot import exits_picture
from scaling.forms import M0, M1, REDUCIBLE
from scaling.frontier import optimum, surface
from scaling.frontierplot import frontier_picture
from scaling.intervals import interval
from scaling.law import FittedLaw, data_of
from scaling.lawfile import save_law
from scaling.lawplots import pairs_picture, surface_picture
from scaling.plot_cli import main
from scaling.plotparts import BLUE, ORANGE, powers_axis, shades
from scaling.plots import draw
from scaling.runplots import profiles_picture, residuals_picture
from scaling.runs import FloatArray, Runs, make_runs
from tests.scaling.runs import TRUTH, grid_runs, losses, write_csv
from tests.scaling.test_approaches import isoflop_runs
from tests.scaling.test_exits import SCALES, exit_rows
from tests.scaling.test_intervals import law_at

PNG = b"\x89PNG\r\n\x1a\n"
DRAWS = TRUTH + 0.002 * np.random.default_rng(0).standard_normal((50, 6))
NO_DRAWS = np.zeros((0, 6))


def words(path: Path) -> str:
    """All text of an SVG."""
    return " ".join(ElementTree.parse(path).getroot().itertext())


def lines(axes: Axes, **style: str) -> list[FloatArray]:
    """(2, P) of the lines whose colour, marker or line style are these."""
    return [
        np.array(line.get_data(), float)
        for line in axes.get_lines()
        if all(getattr(line, f"get_{name}")() == value for name, value in style.items())
    ]


def exit_law(extra: float) -> FittedLaw:
    """M1, as it made `exit_rows`."""
    rows = exit_rows(M1, [extra])
    theta = np.array([*SCALES, extra])
    return replace(law_at(TRUTH, NO_DRAWS), form=M1, theta=theta, covariance=1e-8 * np.eye(6), data=data_of(rows))


def test_every_picture_is_a_png_and_an_svg_whose_axes_say_what_they_are(tmp_path: Path) -> None:
    drawn = draw(law_at(TRUTH, DRAWS), tmp_path / "new", isoflop_runs(), exit_rows(M0, []))
    names = {"bootstrap", "surface", "frontier", "profiles", "residuals", "exits"}
    assert {path.name for path in drawn.files} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {path.name for path in drawn.files}
    assert not drawn.left_out
    assert all(path.read_bytes().startswith(PNG) for path in drawn.files if path.suffix == ".png")
    for name in ("surface", "frontier", "profiles"):
        assert "model size N (parameters)" in words(tmp_path / "new" / f"{name}.svg")
    assert "G = 3" in words(tmp_path / "new" / "frontier.svg")
    assert "nats per token" in words(tmp_path / "new" / "exits.svg")


def test_what_there_is_nothing_to_show_for_is_left_out_with_the_reason(tmp_path: Path) -> None:
    rising = TRUTH.copy()
    rising[3] = -0.1
    drawn = draw(law_at(rising, NO_DRAWS), tmp_path, grid_runs())
    assert {path.stem for path in drawn.files} == {"surface", "residuals"}
    assert drawn.left_out.keys() == {"bootstrap", "frontier", "profiles"}
    assert "--bootstraps 0" in drawn.left_out["bootstrap"] and "no best size" in drawn.left_out["frontier"]
    assert "3 sizes" in drawn.left_out["profiles"]


def test_shades_are_told_apart_in_grey_print() -> None:
    for count in (2, 4, 8):
        grey = [np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) for colour in shades(count)]
        assert len(grey) == count and (np.diff(grey) > 0.35 / count).all() and grey[-1] < 0.75


@pytest.mark.parametrize("ends", [(1.004e9, 4.02e9), (6.8e4, 9.4e5), (5.7e7, 1.6e10), (1e7, 1e16)])
def test_a_logarithmic_axis_has_three_ticks_or_more_and_not_too_many(ends: tuple[float, float]) -> None:
    axis = Figure().subplots().xaxis
    powers_axis(axis, *ends)
    ticks = np.asarray(axis.get_ticklocs())
    assert 3 <= len(ticks) <= 5 and (ticks >= np.log10(ends[0])).all() and (ticks <= np.log10(ends[1])).all()


def test_the_surfaces_are_those_of_the_runs_g_and_say_how_much_a_g_costs() -> None:
    figure = surface_picture(law_at(TRUTH, NO_DRAWS))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["G = 1", f"G = 2, +{100 * (2**0.05 - 1):.1f}%", f"G = 4, +{100 * (4**0.05 - 1):.1f}%"]
    heights = [line.get_data_3d()[2] for line in figure.axes[0].get_lines()]  # type: ignore[attr-defined]
    n, d = np.geomspace(1e7, 3e9, 9), np.full(9, 1e9)
    np.testing.assert_allclose(heights[0], losses(n, d, np.ones(9)))
    np.testing.assert_allclose(heights[8], losses(n, d, np.full(9, 4.0)))


def test_the_frontier_is_the_laws_and_its_band_the_interval_of_the_size() -> None:
    law, runs = law_at(TRUTH, DRAWS), grid_runs()
    axes = frontier_picture(law, 3, runs).axes[0]
    within, beyond = lines(axes, color=BLUE)
    c = 6 * np.concatenate([within, beyond], axis=1).prod(axis=0)
    least, most = law.data.ranges["c"]
    assert c[0] == pytest.approx(least) and c[-1] == pytest.approx(10 * most)
    assert 6 * within[:, -1].prod() <= most < 6 * beyond[:, 0].prod()
    best = optimum(surface(law.form, law.theta[None], 3), c)
    np.testing.assert_allclose(np.concatenate([within, beyond], axis=1), [best.n[0], best.d[0]])
    (band,) = axes.patches
    edge = band.get_xy()[: 2 * len(c)]  # type: ignore[attr-defined]
    found = interval(law, lambda theta: optimum(surface(law.form, theta, 3), c).n)
    np.testing.assert_allclose(edge[:, 0], np.concatenate([found.low, found.high[::-1]]))
    np.testing.assert_allclose(6 * edge.prod(axis=1), np.concatenate([c, c[::-1]]))
    for line in lines(axes, color=ORANGE):
        assert np.ptp(np.log(line.prod(axis=0))) < 1e-9
    (points,) = lines(axes, marker="o")
    assert points.tolist() == [runs.n.tolist(), runs.d.tolist()]


def test_a_law_that_says_nothing_of_its_uncertainty_has_no_band_and_no_word_of_one() -> None:
    figure = frontier_picture(law_at(TRUTH, NO_DRAWS))
    assert not figure.axes[0].patches
    assert not any("interval" in text.get_text() for text in figure.legends[0].get_texts())


def test_of_a_law_of_exits_surface_and_frontier_are_those_of_the_last() -> None:
    law = exit_law(0.1)
    axes = frontier_picture(law, 3).axes[0]
    assert axes.get_title() == "G = 3, last exit"
    n, d = lines(axes, color=BLUE)[0]
    whole = replace(law, form=REDUCIBLE)  # what M1 is where N_g is N
    np.testing.assert_allclose(optimum(surface(whole.form, whole.theta[None], 3), 6 * n * d).n[0], n)
    assert surface_picture(law).axes[0].get_zlabel().startswith("loss of the last exit")  # type: ignore[attr-defined]


def test_one_draw_that_ran_away_does_not_squeeze_the_others() -> None:
    draws = np.tile(DRAWS, (20, 1))
    draws[0, 3] = 50.0
    figure = pairs_picture(law_at(TRUTH, draws))
    panel = next(axes for axes in figure.axes if axes.get_xlabel() == r"$\alpha$")
    low, high = panel.get_xlim()
    assert low < TRUTH[3] - 0.002 and TRUTH[3] + 0.002 < high < 0.4
    assert "1,000 bootstraps" in figure.get_suptitle() and "1 lie outside" in figure.get_suptitle().replace(",", "")


def family_profiles() -> Runs:
    """Budgets of five sizes at G = 1 and 4, and one size only at G = 2."""
    every = product((1e18, 1e19), (1e7, 4e7, 1.6e8, 6.4e8, 2.6e9), (1, 2, 4))
    c, n, g = np.array([(c, n, g) for c, n, g in every if g != 2 or n == 4e7]).T
    return make_runs(n, c / 6 / n, losses(n, c / 6 / n, g), g)


def test_profiles_have_a_panel_for_each_g_with_sizes_and_a_star_at_each_minimum() -> None:
    runs, law = family_profiles(), law_at(TRUTH, NO_DRAWS)
    figure = profiles_picture(law, runs)
    assert [axes.get_title() for axes in figure.axes] == ["G = 1", "G = 4"]
    for axes, g in zip(figure.axes, (1, 4), strict=True):
        mine = runs.take(runs.g == g)
        stars = np.concatenate(lines(axes, marker="*"), axis=1)
        expected = [(p.best, float(p.at(p.best))) for p in profiles(mine) if np.isfinite(p.best)]
        assert len(expected) == 2
        np.testing.assert_allclose(sorted(stars.T.tolist()), sorted(expected))
        points = {(x, y) for marker in ("o", "s") for line in lines(axes, marker=marker) for x, y in line.T}
        assert points == set(zip(mine.n, mine.loss, strict=True))
        for dotted in lines(axes, linestyle=":"):  # the law goes through its own runs
            assert dotted[1, [0, -1]] == pytest.approx(losses(*_ends(mine, dotted, g)), rel=1e-9)


def _ends(runs: Runs, dotted: FloatArray, g: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """N, D and G at both ends of a budget's line; D is that of the run whose loss is there."""
    n = dotted[0, [0, -1]]
    d = np.array([runs.d[np.argmin(np.abs(np.log(runs.loss / loss)))] for loss in dotted[1, [0, -1]]])
    return n, d, np.full(2, float(g))


def test_a_parabola_that_opens_downwards_is_not_drawn() -> None:
    n = np.array([1e7, 1e8, 1e9])
    figure = profiles_picture(law_at(TRUTH, NO_DRAWS), make_runs(n, 1e18 / 6 / n, np.array([3.0, 3.5, 3.1])))
    assert not lines(figure.axes[0], linestyle="-") and not lines(figure.axes[0], marker="*")


def test_residuals_are_of_the_runs_and_those_of_an_exits_law_go_by_depth() -> None:
    law, runs = law_at(TRUTH, NO_DRAWS, 1e-8 * np.eye(6)), grid_runs()
    panels = residuals_picture(law, runs).axes
    assert panels[2].get_xlabel() == "training compute C (FLOPs)"
    (ones,) = lines(panels[2], marker="o")
    mine = runs.take(runs.g == 1)
    np.testing.assert_allclose(ones, [mine.c, np.log(mine.loss / losses(mine.n, mine.d, mine.g))], atol=1e-12)
    rows = exit_rows(M1, [0.1])
    panels = residuals_picture(exit_law(0.1), rows).axes
    (ones,) = lines(panels[2], marker="o")
    assert "depth" in panels[2].get_xlabel() and set(ones[0]) == {1.0}
    assert np.abs(ones[1]).max() < 0.01


def test_the_exits_picture_has_a_row_for_each_g_and_a_line_for_each_run() -> None:
    law, rows = exit_law(0.1), exit_rows(M1, [0.1])
    rows = rows.take(rows.c > 1e15)
    panels = exits_picture(law, rows).axes
    assert (
        len(panels) == 6 and panels[0].get_ylabel().startswith("G = 2") and panels[3].get_ylabel().startswith("G = 4")
    )
    fitted = law.predict_runs(rows).loss
    for row, g in enumerate((2, 4)):
        for column, c in enumerate((1e16, 1e17, 1e18)):
            panel = panels[3 * row + column]
            n = rows.n[rows.g > 1].min()  # all sizes have as many exits
            mine = (rows.c == c) & (rows.g == g) & (rows.n == n)
            (drawn,) = lines(panel, linestyle="-", marker="o")
            np.testing.assert_allclose(drawn, [np.arange(1, g + 1) / g, rows.loss[mine]])
            (dashed,) = lines(panel, linestyle="--")
            np.testing.assert_allclose(dashed[1], fitted[mine])
            (dense,) = lines(panel, marker="*")
            assert dense[1] == pytest.approx(rows.loss[(rows.c == c) & (rows.g == 1) & (rows.n == n)])


def test_a_law_of_runs_is_shown_at_each_exits_own_size() -> None:
    law, rows = law_at(TRUTH, NO_DRAWS, 1e-8 * np.eye(6)), exit_rows(M0, [])
    rows = rows.take(rows.c == 1e18)
    dashed = lines(exits_picture(law, rows).axes[0], linestyle="--")[0]
    assert rows.n_exit is not None
    mine = (rows.g == 2) & (rows.n == rows.n.min())
    np.testing.assert_allclose(dashed[1], losses(rows.n_exit[mine], rows.d[mine], np.ones(2)))


def test_runs_that_do_not_say_where_their_exits_are_have_no_picture_of_them() -> None:
    with pytest.raises(ScalingError, match="layer, layers and n_exit"):
        exits_picture(law_at(TRUTH, DRAWS), grid_runs())


def test_plot_law_prints_the_files_that_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_law(law_at(TRUTH, DRAWS), tmp_path / "law.json")
    main([str(tmp_path / "law.json"), "--out", str(tmp_path / "pictures"), "--g", "2"])
    printed = capsys.readouterr().out.split()
    assert printed and all(Path(line).is_file() for line in printed)
    assert "G = 2" in words(tmp_path / "pictures" / "frontier.svg")


def test_plot_law_refuses_other_runs_and_says_why_a_picture_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid_runs()
    rows = write_csv(tmp_path / "runs.csv", {"n": runs.n, "d": runs.d, "g": runs.g, "loss": runs.loss})
    save_law(law_at(TRUTH, NO_DRAWS), tmp_path / "law.json")
    arguments = [str(tmp_path / "law.json"), "--runs", str(rows), "--out", str(tmp_path / "pictures")]
    main(arguments)
    assert "note: no picture of bootstrap: the law has no bootstraps" in capsys.readouterr().err
    write_csv(rows, {"n": runs.n, "d": runs.d, "g": runs.g, "loss": runs.loss + 0.01})
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and "that the law was fitted to" in capsys.readouterr().err


def test_plot_law_says_how_to_make_a_law_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "law.json"), "--out", str(tmp_path)])
    assert stopped.value.code == 2 and "fit-law" in capsys.readouterr().err


def test_plot_law_wants_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "law.json"), "--out", str(tmp_path / "taken")])
    assert "taken is a file; give a folder" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from scaling.plot_cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--runs" in shown
