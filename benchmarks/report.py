"""What all benchmarks share: the machine, the paths, and one JSON object as the result."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from family.cli import run
from family.errors import FamilialError

ROOT = Path(__file__).resolve().parent.parent
FAMILY = "smollm2-135m-g3"
PRECISIONS = ("f32", "int4")


class MissingInputError(FamilialError):
    """Something that the benchmark reads is not there; the text says how to get it."""


def bundle(precision: str) -> Path:
    """The repository's family at a precision. Raises `MissingInputError`."""
    path = ROOT / "bundles" / f"{FAMILY}-{precision}"
    if not (path / "manifest.json").is_file():
        raise MissingInputError(f"{path} is missing; run: make {path.relative_to(ROOT)}/manifest.json")
    return path


def data(name: str) -> Path:
    """A file of the data sets that the project measures on but does not ship. Raises `MissingInputError`."""
    folder = Path(os.environ.get("FAMILIAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / name).is_file():
        raise MissingInputError(f"{folder / name} is missing; set FAMILIAL_DATA to a folder that holds {name}")
    return folder / name


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    memory = next((line.split()[1] for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0")
    return {
        "cpu": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }


def main(
    name: str, description: str | None, measure: Callable[[], dict[str, Any]], table: Callable[[Any], str]
) -> None:
    """Run a benchmark that takes no options: a table, or with --json one object on one line."""
    publish(name, parser(name, description).parse_args(), measure, table)


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark, which may add options of its own."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def publish(
    name: str, arguments: argparse.Namespace, measure: Callable[[], dict[str, Any]], table: Callable[[Any], str]
) -> None:
    """Measure, and print the result as the command line asks."""

    def work() -> None:
        result = {"benchmark": name, **measure(), "machine": machine()}
        sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))

    run(work, name=f"benchmarks.{name}", extra="dev")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
