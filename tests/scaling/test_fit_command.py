import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scaling.cli
from scaling.cli import main
from scaling.forms import FORMS
from scaling.lawfile import load_law
from tests.scaling.runs import ROOT, grid_runs, real, write_csv


@pytest.fixture
def table(tmp_path: Path) -> Path:
    runs = grid_runs()
    return write_csv(tmp_path / "runs.csv", {"size": runs.n, "tokens": runs.d, "exits": runs.g, "loss": runs.loss})


MAP = ("--map", "n=size", "g=exits")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from scaling.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'scipy', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    assert (
        "--drop-highest"
        in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def test_a_fit_loads_nothing_of_training() -> None:
    code = (
        "import sys; from scaling.cli import main; main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'pyarrow', 'matplotlib'} & set(sys.modules)"
    )
    rows = str(ROOT / "experiments" / "isoflop" / "cpu-rates" / "rows.jsonl")
    subprocess.run([sys.executable, "-c", code, rows, "--bootstraps", "0"], capture_output=True, check=True)


def test_the_flags_name_every_form() -> None:
    assert set(scaling.cli.FORMS) == set(FORMS)
    assert set(scaling.cli.EXIT_FORMS) == {name for name, form in FORMS.items() if form.needs}


def test_a_table_gives_a_law_and_its_file(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(table), *MAP, "--bootstraps", "60", "--drop-highest", "2", "--out", str(tmp_path / "law.json")])
    printed = capsys.readouterr().out
    assert printed.startswith("runs.csv: 118 runs, N 1e+07 to 3e+09") and "gamma" in printed
    law = load_law(tmp_path / "law.json")
    assert law.form.name == "full" and law.draws.shape == (60, 6)
    assert law.data.source is not None and law.data.source.columns["n"] == "size"
    gamma = law.natural["gamma"]
    assert gamma == pytest.approx(0.05, abs=0.005)


def test_json_has_estimates_and_findings(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(table), *MAP, "--where", "exits=1", "--json", "--bootstraps", "20", "--seed", "4"])
    data = json.loads(capsys.readouterr().out)
    assert (data["form"], data["bootstraps"], data["seed"]) == ("dense", 20, 4)
    assert [e["name"] for e in data["estimates"]] == ["E", "A", "B", "alpha", "beta", "beta/(alpha+beta)"]
    assert data["data"]["source"]["where"] == {"exits": "1"}


def test_profiles_and_approaches_are_added_where_they_are_asked_for(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(table), *MAP, "--bootstraps", "300", "--profile", "--approaches"]
    main(command)
    law, likelihood, hoffmann = capsys.readouterr().out.split("\n\n")[-3:]
    assert "certified" in law and "90% interval by the profile likelihood" in likelihood
    assert [line.split()[0] for line in likelihood.splitlines()[1:]] == ["E", "A", "B", "alpha", "beta", "gamma"]
    assert [line[:2] for line in hoffmann.splitlines()[1:]] == ["1,", "2,", "3,"]
    main([*command, "--json"])
    data = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    drawn = {e["name"]: e for e in data["estimates"]}
    for profile in data["profiles"]:
        own = drawn[profile["parameter"]]
        assert profile["value"] == pytest.approx(own["value"]) and profile["low"] < own["value"] < profile["high"]
        assert 0.5 < (profile["high"] - profile["low"]) / (own["high"] - own["low"]) < 2
    assert [a["approach"][:1] for a in data["approaches"]] == ["1", "2", "3"]
    assert data["approaches"][2]["value"] == pytest.approx(0.36 / 0.7, abs=0.03)
    main(command[:-2])
    assert "Hoffmann" not in capsys.readouterr().out


def test_profiles_of_exits_say_that_they_are_too_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(ROOT / "experiments/isoflop/cpu/rows.jsonl"), "--form", "M3", "--bootstraps", "0", "--profile"])
    assert "rows of one run for independent" in capsys.readouterr().out.splitlines()[-1]


def test_the_same_seed_gives_the_same_output(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        main([str(table), *MAP, "--bootstraps", "20", "--seed", seed])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.csv"], "error: none.csv: no such file"),
        (["TABLE"], 'say which: --map n="size"'),
        (["TABLE", *MAP, "--map", "n=tokens"], "error: --map has n twice; give one value for it"),
        (["TABLE", *MAP, "--where", "exits=9"], "no row has exits = '9'; there are '1.0', '2.0', '3.0', '4.0'"),
        (["TABLE", *MAP, "--drop-highest", "500"], "error: there are no runs"),
        (["TABLE", *MAP, "--form", "M1"], "error: the form M1 needs n_exit"),
        (["TABLE", *MAP, "--compute", "given"], "no column of FLOPs to take C from"),
        (["TABLE", "--map", "n"], "argument --map: expected NAME=VALUE, got 'n' (FILE stands before)"),
        (["TABLE", *MAP, "--out", "TABLE"], "is the table of runs itself; name another file"),
        (["TABLE", *MAP, "--out", "TABLE/law.json"], "is a file, so nothing can be written under it"),
        (["TABLE", *MAP, "--out", "/"], "error: --out /: is a folder; name a file in it"),
        (["TABLE", *MAP, "--bootstraps", "1"], "expected 0 or at least 2 bootstraps"),
        (["TABLE", "--bootstraps", "-1"], "argument --bootstraps: expected a whole number from 0 on, got '-1'"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_what_to_do(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main([argument.replace("TABLE", str(table)) for argument in arguments])
    assert left.value.code == 2 and table.read_text().startswith("size,tokens,exits,loss")
    assert problem in capsys.readouterr().err.splitlines()[-1]


def test_nothing_is_written_when_the_fit_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(table), *MAP, "--where", "size=1e7", "--out", str(tmp_path / "law.json")])
    assert not (tmp_path / "law.json").exists()


def test_a_sweeps_rows_are_fitted_without_mapping(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ROOT / "experiments" / "isoflop" / "cpu-rates" / "rows.jsonl"
    main([str(rows), "--bootstraps", "0"])
    printed = capsys.readouterr().out
    assert printed.startswith("rows.jsonl: 15 runs") and "several learning rates" in printed


def test_the_chinchilla_points_give_the_published_law(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(real("epoch-chinchilla/svg_extracted_data.csv")), "--drop-highest", "5", "--json", "--bootstraps", "400"])
    data = json.loads(capsys.readouterr().out)
    value = {e["name"]: e["value"] for e in data["estimates"]}
    assert data["objective"] <= 1.01827402e-3
    assert np.round([value["alpha"], value["beta"], value["E"]], 4).tolist() == [0.3473, 0.3672, 1.8172]
