"""Bundles that are not as they were written."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from family.manifest import MANIFEST_NAME, load_manifest


def copied(bundle: Path, folder: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(bundle, folder / "bundle"))


def with_field(bundle: Path, folder: Path, path: tuple[str | int, ...], value: Any) -> Path:
    """A copy whose manifest has another value at `path`."""
    copy = copied(bundle, folder)
    manifest = copy / MANIFEST_NAME
    data = json.loads(manifest.read_text(encoding="utf-8"))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    manifest.write_text(json.dumps(data), encoding="utf-8")
    return copy


def files_of(bundle: Path, indices: Iterable[int]) -> set[str]:
    """Files that the segments and exits of these indices need."""
    wanted = set(indices)
    return {name for graph in load_manifest(bundle).graphs if graph.index in wanted for name in graph.files}
