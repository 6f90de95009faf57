"""`export-family`: quick to help, one line for every mistake, figures as a table or as JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import cli
from family.manifest import load_manifest
from training.checkpoint import save_family
from training.loaded import LoadedFamily

MAIN = "from exporter.cli import main; main()"
HEAVY = "import sys, exporter.cli; print(sorted({'torch', 'onnx', 'numpy', 'transformers'} & {*sys.modules}))"


def command(*arguments: object, code: str = MAIN) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own."""
    given = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tiny_family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family") / "tiny"
    path.mkdir()
    save_family(tiny_family, path)
    return path


def test_help_needs_nothing_heavy() -> None:
    done = command("--help")
    assert done.returncode == 0 and "FAMILY_DIR" in done.stdout
    assert command(code=HEAVY).stdout.strip() == "[]"


def test_it_writes_a_bundle_and_prints_the_figures(folder: Path, tiny_base_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A prefix can always be sent again. " * 80)
    base = ("--base", tiny_base_dir, "--out", tmp_path / "bundle", "--precision", "f32", "--eval", text)
    done = command(folder, *base, "--eval-tokens", 300, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    manifest = load_manifest(tmp_path / "bundle")
    assert report["export_fingerprint"] == manifest.export_fingerprint
    assert [graph["name"] for graph in report["graphs"]] == [graph.name for graph in manifest.graphs]
    assert report["quality"]["tokens"] == 256
    printed = cli.table(manifest)
    assert "exit-3" in printed and "cross-entropy" in printed and "window 256" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "b"], "nowhere/spec.json: no such file"),
        (["FAMILY", "--out", "occupied"], "occupied: exists and is not a bundle"),
        (["FAMILY", "--out", "b", "--base", "./nobody"], "nobody"),
        (["FAMILY", "--out", "b"], "tiny-g3 was trained on base; give that base with --base"),
        (["FAMILY", "--out", "."], ".: is in use"),
        (["FAMILY", "--out", "b", "--eval", "missing.txt"], "missing.txt: no such file"),
        (["FAMILY", "--out", "b", "--calibrate", "missing.txt"], "missing.txt: no such file"),
        (
            ["FAMILY", "--out", "b", "--calibrate", "occupied/thesis.txt", "--precision", "f32"],
            "leave --calibrate out, or give a tier int4 or int8",
        ),
        (["FAMILY", "--out", "b", "--calibrate-tokens", "0"], "expected a positive whole number"),
        (["FAMILY", "--out", "b", "--eval-tokens", "0"], "expected a positive whole number"),
        (["FAMILY", "--out", "b", "--precision", "int3"], "expected one of f32, int8, int4, or one per tier"),
        (["FAMILY", "--out", "b", "--precision", "device=int4,edge=int4"], "nothing is said of cloud; give device=..."),
        (["FAMILY", "--out", "b", "--precision", "phone=int4"], "this family has no tier 'phone'; give device=..."),
        (["FAMILY", "--out", "b", "--precision", "edge=int4,edge=int8"], "edge is given twice; give device=..."),
        (["FAMILY", "--out", "b", "--precision", "edge=int2"], "one of f32, int8, int4"),
        (["FAMILY", "--out", "b", "--precision", "device=,edge"], "expected one of f32, int8, int4"),
        (["FAMILY", "--out", "b", "--precision", ""], "expected one of f32, int8, int4"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.txt").touch()
    given = [str(folder) if argument == "FAMILY" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["export-family", *given])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1] and "error: " in told[-1]
    assert not (tmp_path / "b").exists()


def test_four_bit_weights_are_calibrated_on_a_text(folder: Path, tiny_base_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A prefix can always be sent again. " * 80)
    given = (folder, "--base", tiny_base_dir, "--precision", "int4", "--json")
    plain = command(*given, "--out", tmp_path / "plain")
    fitted = command(*given, "--out", tmp_path / "fitted", "--calibrate", text, "--calibrate-tokens", 300)
    assert (plain.returncode, fitted.returncode, fitted.stderr) == (0, 0, "")
    assert json.loads(plain.stdout)["export_fingerprint"] != json.loads(fitted.stdout)["export_fingerprint"]


def test_a_missing_extra_names_the_command_that_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "exporter.bundle", None)
    monkeypatch.setattr(sys, "argv", ["export-family", str(folder), "--out", "b"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "pip install 'familial[export]'" in capsys.readouterr().err


def test_progress_is_written_over_on_a_terminal_only() -> None:
    class Terminal:
        def __init__(self, tty: bool) -> None:
            self.tty, self.text = tty, ""

        def isatty(self) -> bool:
            return self.tty

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    terminal, pipe = Terminal(True), Terminal(False)
    for stream in (terminal, pipe):
        say = cli.progress_line(stream)  # type: ignore[arg-type]
        say("one")
        say("two")
    assert terminal.text.count("\r") == 2 and "\n" not in terminal.text
    assert pipe.text == ""
