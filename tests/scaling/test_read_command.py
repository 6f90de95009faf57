"""`read-law` and `fit-law --exits` as a user runs them, on the rows of a real sweep."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import scaling.cli
from scaling.forms import M1
from scaling.lawfile import load_law, save_law
from scaling.read_cli import main
from tests.scaling.runs import ROOT, grid_runs, write_csv
from tests.scaling.test_budgets import law
from tests.scaling.test_exits import exit_rows

ROWS = str(ROOT / "experiments" / "isoflop" / "cpu" / "rows.jsonl")


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of laws that `fit-law` made of a sweep."""
    folder = tmp_path_factory.mktemp("laws")
    for form in ("full", "M1"):
        scaling.cli.main([ROWS, "--form", form, "--bootstraps", "40", "--out", str(folder / f"{form}.json")])
    return folder


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from scaling.read_cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'scipy', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--trunks" in shown


def test_reading_a_law_loads_nothing_of_training(laws: Path) -> None:
    code = (
        "import sys; from scaling.read_cli import main; main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'pyarrow', 'matplotlib'} & set(sys.modules)"
    )
    arguments = [str(laws / "M1.json"), "--compute", "1e12", "--trunks", ROWS]
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)


def test_the_table_has_the_frontier_and_the_price_of_each_g(laws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(laws / "M1.json"), "--compute", "3e12", "1e12", "--trunks", ROWS])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("L = E + (A N_g^-alpha + B D^-beta) G^gamma (M1; N total)")
    assert "G = 4: exits after 0.25, 0.5, 0.75, 1 of the layers, with" in lines[2]
    assert sum(line.startswith("the best that C buys; C = 6ND") for line in lines) == 1
    assert sum(line.startswith("what G costs and saves; C exact, with all branches and heads") for line in lines) == 1
    rows = [line.split()[:2] for line in lines if line.startswith(("1e+12", "3e+12"))]
    assert rows[:6] == [[c, g] for c in ("1e+12", "3e+12") for g in ("1", "2", "4")] and len(rows) == 20
    header = next(line for line in lines if "equal loss, mean" in line)
    assert "equal loss, last exit" in header and "separate, own sizes" in header


def test_json_has_every_figure_with_its_interval(laws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(laws / "full.json"), "--compute", "1e12", "--g", "4", "2", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert [reading["granularity"] for reading in data["readings"]["6ND"]] == [2, 4]
    for reading in data["readings"]["6ND"]:
        for name in ("n", "d", "loss", "mean", "leverage"):
            assert reading[name]["low"] <= reading[name]["value"] <= reading[name]["high"]
        assert "last" not in reading and "separate" not in reading
    assert data["conventions"]["heads"] is True and data["level"] == 0.9


def test_depths_place_one_family(laws: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(laws / "M1.json"), "--compute", "1e12", "--depths", "0.75", "0.25", "--trunks", ROWS, "--json"])
    data = json.loads(capsys.readouterr().out)
    assert [exits["depths"] for exits in data["exits"]] == [[1.0], [0.25, 0.75, 1.0]]


def test_a_dense_law_is_read_at_g_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = grid_runs().take(grid_runs().g == 1)
    table = write_csv(tmp_path / "runs.csv", {"n": runs.n, "d": runs.d, "loss": runs.loss})
    scaling.cli.main([str(table), "--bootstraps", "20", "--out", str(tmp_path / "law.json")])
    capsys.readouterr()
    main([str(tmp_path / "law.json"), "--compute", "1e20"])
    printed = capsys.readouterr().out
    assert "the best that C buys" in printed and "equal loss" not in printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.json", "--compute", "1e12"], "error: none.json: no such file; write one with: fit-law"),
        (["M1", "--compute", "1e12"], "error: the form M1 needs the sizes of the exits"),
        (["full", "--compute", "1e12", "--trunks", "none.jsonl"], "error: none.jsonl: no such file"),
        (["full", "--compute", "1e12", "--trunks", ROWS, "--g", "9"], "error: 9 exits at "),
        (["full", "--compute", "0"], "argument --compute: expected a positive number of FLOPs, got '0'"),
        (["full", "--compute", "1e12", "--depths", "1"], "expected a share of the layers between 0 and 1, got '1'"),
        (["full", "--compute", "1e12", "--depths", "0.5", "--g", "2"], "not allowed with argument"),
        (["full"], "the following arguments are required: --compute"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_what_to_do(
    laws: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    first = str(laws / f"{arguments[0]}.json") if arguments[0] in ("M1", "full") else arguments[0]
    with pytest.raises(SystemExit) as left:
        main([first, *arguments[1:]])
    assert left.value.code == 2
    assert problem in capsys.readouterr().err.splitlines()[-1]


def test_a_law_that_nothing_is_known_of_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_law(replace(law(), draws=law().draws[:0]), tmp_path / "law.json")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "law.json"), "--compute", "1e20"])
    assert "nothing says how sure it is: fit it again" in capsys.readouterr().err


def test_bash_reads_the_completion_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert left.value.code == 0 and "--trunks" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_exits_compares_the_laws_per_exit_and_fits_the_chosen_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling.cli.main([ROWS, "--exits", "--bootstraps", "20", "--json", "--out", str(tmp_path / "law.json")])
    data = json.loads(capsys.readouterr().out)
    chosen = data["exits"]["chosen"]
    assert data["form"] == chosen == load_law(tmp_path / "law.json").form.name
    assert data["exits"]["fits"][0]["form"] == "M0" and "G·w_g" in data["exits"]["left_out"]["M2"]
    assert {score["split"] for score in data["exits"]["scores"]} == {"runs", "layers", "top budget", "overall"}


def test_exits_takes_a_form_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.cli.main([ROWS, "--exits", "--form", "M1", "--bootstraps", "20"])
    printed = capsys.readouterr().out
    assert "median error of losses" in printed and "chosen: " in printed and "(M1; N total" in printed


def test_a_table_with_a_row_per_exit_is_compared_and_read_without_trunks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = exit_rows(M1, [0.1])
    columns = {"n": rows.n, "d": rows.d, "c": rows.c, "g": rows.g, "loss": rows.loss, "run": rows.cluster}
    columns |= {"layer": rows.exit_layer, "layers": rows.n_layers, "n_exit": rows.n_exit}
    table = write_csv(tmp_path / "exits.csv", columns)
    law_file = str(tmp_path / "law.json")
    fields = ("run", "layer", "layers", "n_exit")
    mapped = ["--map", *(f"{name}={name}" for name in fields), "--params", "non-embedding"]
    scaling.cli.main([str(table), *mapped, "--exits", "--bootstraps", "20", "--json", "--out", law_file])
    found = json.loads(capsys.readouterr().out)
    assert found["form"] == "M1" and "exit_weight" in found["exits"]["left_out"]["M2"]
    main([law_file, "--compute", "1e18"])
    assert "G = 2: exits after 0.5, 1 of the layers, with 0.5, 1 of N" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([ROWS, "--exits", "--form", "full"], "error: --exits compares laws of one exit's loss, --form full is of"),
        (["TABLE", "--exits"], "error: the form M0 needs n_exit, which these runs do not have"),
    ],
)
def test_exits_that_cannot_be_compared_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    runs = grid_runs()
    table = write_csv(tmp_path / "runs.csv", {"n": runs.n, "d": runs.d, "g": runs.g, "loss": runs.loss})
    with pytest.raises(SystemExit):
        scaling.cli.main([str(table) if argument == "TABLE" else argument for argument in arguments])
    assert problem in capsys.readouterr().err.splitlines()[-1]
