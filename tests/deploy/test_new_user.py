"""A new user's path, `tests/new_user.sh`, with what `pip install` gives: no source, no tests, no clone."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.deploy.files import ROOT
from tests.relay.processes import environment, free_ports


def test_a_new_users_path_works_without_the_source(tiny_bundle: Path, tmp_path: Path) -> None:
    home = installed(tmp_path)
    where = "import relay; print(relay.__file__)"
    python = str(home / "bin" / "python3")
    found = subprocess.run([python, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(home)

    script = tmp_path / "new_user.sh"
    script.write_bytes((ROOT / "tests" / "new_user.sh").read_bytes())
    empty = tmp_path / "empty"
    empty.mkdir()
    given = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "BUNDLE": str(tiny_bundle), "PORT": str(free_ports(4))}
    done = subprocess.run(
        ["sh", str(script)],
        cwd=empty,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment(**given),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("# All of it works.")
    assert not list(empty.iterdir()), "nothing is left in the user's folder"


def installed(folder: Path) -> Path:
    """An environment with the wheel of this project. Its dependencies are those that the tests themselves have."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True)
    home = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    (built,) = folder.glob("familial-*.whl")
    subprocess.run([*pip, "--python", str(home), "install", "--no-deps", str(built)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return home
