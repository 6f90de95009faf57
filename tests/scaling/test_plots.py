"""Pictures: every one that there is something to show for is written, in words and units, without a display."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from scaling.forms import M0
from scaling.lawfile import save_law
from scaling.plot_cli import main
from scaling.plots import draw
from tests.scaling.runs import TRUTH
from tests.scaling.test_approaches import isoflop_runs
from tests.scaling.test_exits import exit_rows
from tests.scaling.test_intervals import law_at

PNG = b"\x89PNG\r\n\x1a\n"
DRAWS = TRUTH + 0.002 * np.random.default_rng(0).standard_normal((50, 6))


def words(path: Path) -> str:
    """All text of an SVG."""
    return " ".join(ElementTree.parse(path).getroot().itertext())


def test_every_picture_is_a_png_and_an_svg_whose_axes_say_what_they_are(tmp_path: Path) -> None:
    paths = draw(law_at(TRUTH, DRAWS), tmp_path / "new", isoflop_runs(), exit_rows(M0, []))
    names = {"bootstrap", "surface", "frontier", "profiles", "residuals", "exits"}
    assert {path.name for path in paths} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert all(path.read_bytes().startswith(PNG) for path in paths if path.suffix == ".png")
    for name in ("surface", "frontier", "profiles"):
        assert "model size N (parameters)" in words(tmp_path / "new" / f"{name}.svg")
    assert "G = 3" in words(tmp_path / "new" / "frontier.svg")
    assert "nats per token" in words(tmp_path / "new" / "exits.svg")


def test_a_law_alone_has_no_pictures_of_runs_and_without_draws_none_of_a_bootstrap(tmp_path: Path) -> None:
    paths = draw(law_at(TRUTH, np.zeros((0, 6)), 1e-6 * np.eye(6)), tmp_path)
    assert {path.stem for path in paths} == {"surface", "frontier"}


def test_a_law_without_a_best_size_has_no_frontier(tmp_path: Path) -> None:
    rising = TRUTH.copy()
    rising[3] = -0.1
    assert {path.stem for path in draw(law_at(rising, np.zeros((0, 6))), tmp_path)} == {"surface"}


def test_plot_law_prints_the_files_that_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_law(law_at(TRUTH, DRAWS), tmp_path / "law.json")
    main([str(tmp_path / "law.json"), "--out", str(tmp_path / "pictures"), "--g", "2"])
    printed = capsys.readouterr().out.split()
    assert printed and all(Path(line).is_file() for line in printed)
    assert "G = 2" in words(tmp_path / "pictures" / "frontier.svg")


def test_plot_law_says_how_to_make_a_law_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "law.json"), "--out", str(tmp_path)])
    assert stopped.value.code == 2 and "fit-law" in capsys.readouterr().err
