"""The demo, as a user sees it."""

import re
import subprocess
import sys
from pathlib import Path

import psutil

from deploy.demo import SCRIPT


def test_the_demo_relays_every_text_reports_and_stops_what_it_started(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "deploy.demo", "--bundle", str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert all(said in done.stdout for said, _ in SCRIPT)
    rows = re.findall(
        r"^ +(\d)  (device|edge|cloud) +(\d+) +(?:\w+ → \w+|-) +(\d+) +(\d+) +(\d+) +\d+ MiB$", done.stdout, re.M
    )
    assert [(exit_, tier) for exit_, tier, *_ in rows] == [("1", "device"), ("2", "edge"), ("3", "cloud")]
    assert all(int(tokens) > 0 for _, _, tokens, *_ in rows)
    (device, edge, cloud) = ([int(n) for n in row[3:]] for row in rows)
    assert min(device + edge) > 0 and cloud == [0, 0, 0]
    assert re.search(r"time to first token \d+ ms, time per token \d+\.\d ms", done.stdout)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tiny_bundle) in " ".join(p.info["cmdline"] or [])]


def test_a_node_that_does_not_start_is_the_demos_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.demo", "--bundle", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "manifest.json: no such file" in done.stderr
    assert len(done.stderr.splitlines()) == 1
