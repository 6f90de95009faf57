import json
import subprocess
import sys
from pathlib import Path

import pytest

from family.spec import Base, load_spec, save_spec
from tests.tiny import TEXT
from training import cli
from training.model import FamilyModel


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from training.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    assert "--layers" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--spec none.json", "none.json: no such file"),
        ("--layers 2,4,5 --base {base}", "--layers: exits: the last exit must be after the last layer, 6"),
        ("--layers 4,2,6 --base {base}", "--layers: exits: layers must be positive and rise"),
        (
            "--layers 6 --base {base}",
            "its one exit is the base itself, so there is nothing to train; give an early exit",
        ),
        ("--layers 2,4,6 --base {base} --window 257", "--window 257: more than the family's context of 256 tokens"),
        ("--layers 2,4,6 --base ./nowhere", "./nowhere: no such folder"),
        ("--layers 2,4,6 --base {base}", "t.txt: no such file"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    tiny_base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, problem: str
) -> None:
    rest = f"--text {tmp_path}/t.txt --eval {tmp_path}/e.txt --tokens 9999 --out {tmp_path}/out"
    (tmp_path / "e.txt").write_text("word " * 500)
    with pytest.raises(SystemExit) as caught:
        cli.main(f"{arguments} {rest}".format(base=tiny_base_dir).split())
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and problem in lines[0]


def test_a_spec_file_is_trained_and_reported_as_json(
    family: FamilyModel, tiny_base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_spec(family.spec.with_base(Base("another", "0" * 64)), tmp_path / "wanted.json")
    (tmp_path / "text.txt").write_text(TEXT)
    files = f"--spec {tmp_path}/wanted.json --text {tmp_path}/text.txt --eval {tmp_path}/text.txt --out {tmp_path}/out"
    recipe = "--tokens 256 --batch 2 --window 32 --threads 1 --eval-tokens 100 --json"
    cli.main(f"--base {tiny_base_dir} {files} {recipe}".split())
    report = json.loads(capsys.readouterr().out)
    assert report["tokens_seen"] == 256 and report["command"].startswith("train-family --base")
    assert load_spec(tmp_path / "out" / "spec.json") == family.spec  # with the base that it was trained on


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--layers a,b",
        "--layers 2,6 --spec x.json",
        *(f"--layers 2,4,6 {wrong}" for wrong in ("--tokens -5", "--seed -1", "--lr nan", "--lr 0", "--lr -1e-3")),
    ],
)
def test_malformed_options_are_refused_by_the_parser(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments += " --text t --eval e --tokens 9 --out o" if "--tokens" not in arguments else ""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.split())
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "train-family: error" in told and "required: --text" not in told


def test_a_missing_extra_prints_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "training.base", None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["--layers", "2,4,6", "--text", "t", "--eval", "e", "--tokens", "9", "--out", "o"])
    assert caught.value.code == 2
    assert "pip install 'familial[train]'" in capsys.readouterr().err
