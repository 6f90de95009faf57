"""Completion, as the shells themselves work it out from the printed scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.relay.processes import PATIENCE_S, environment, run

COMMANDS = ("relay", "relay-node", "train-family", "export-family", "fit-law")
BIN = str(Path(sys.executable).parent)

BASH = """
source "$SCRIPT"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
complete_with=$(complete -p "$1" | sed -n 's/.*-F \\([^ ]*\\) .*/\\1/p')
"$complete_with" "$1" "${!#}" "${@:COMP_CWORD:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(name: str, shell: str, folder: Path) -> Path:
    done = run(name, "--print-completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / f"{name}.{shell}"
    path.write_text(done.stdout, encoding="utf-8")
    return path


def completed(folder: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last word."""
    given = environment(SCRIPT=str(script(words[0], "bash", folder)), PATH=f"{BIN}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        env=given,
        cwd=cwd,
    )
    assert done.stderr == ""
    return {line.strip() for line in done.stdout.splitlines() if line.strip()}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("relay", "gen"), {"generate"}),
        (("relay", ""), {"generate", "describe", "health", "config"}),
        (("relay", "describe", "--"), {"--help", "--json", "--node", "--timeout", "--config"}),
        (("relay-node", "--th"), {"--threads"}),
        (("relay-node", "--print-"), {"--print-config", "--print-completion"}),
        (("train-family", "--la"), {"--layers"}),
        (("export-family", "--ev"), {"--eval", "--eval-tokens"}),
        (("relay-node", "--print-completion", ""), {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_flags_and_choices(tmp_path: Path, words: tuple[str, ...], offered: set[str]) -> None:
    assert completed(tmp_path, *words) >= offered
    if words[-1] not in ("", "--"):
        assert completed(tmp_path, *words) == offered


def test_bash_completes_folders_where_a_folder_is_meant_and_files_where_a_file_is(tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "bundle").mkdir(parents=True)
    (there / "book.toml").touch()
    assert completed(tmp_path, "relay-node", "--bundle", "b", cwd=there) == {"bundle"}
    assert completed(tmp_path, "relay-node", "--config", "b", cwd=there) == {"bundle", "book.toml"}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_reads_the_script_of_every_command(tmp_path: Path, shell: str, name: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    check = [shell, "-n", str(script(name, shell, tmp_path))]
    done = subprocess.run(check, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_completes_flags(tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    source = f"source {script('relay-node', 'fish', tmp_path)}; complete -C 'relay-node --ups'"
    given = environment(HOME=str(tmp_path), PATH=f"{BIN}:{os.environ['PATH']}")
    done = subprocess.run(
        ["fish", "--no-config", "-c", source],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        env=given,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["--upstream"]


def test_a_shell_that_is_not_known_is_refused() -> None:
    done = run("relay", "--print-completion", "dos")
    assert (done.returncode, done.stdout) == (2, "")
    assert "argument --print-completion: invalid choice: 'dos'" in done.stderr.splitlines()[-1]


def test_without_shtab_the_command_that_installs_it_is_named() -> None:
    hide = "import sys; sys.modules['shtab'] = None; sys.argv[1:] = ['--print-completion', 'bash']"
    code = f"{hide}; from relay.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment()
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --print-completion needs the package shtab; install it with: pip install ")
