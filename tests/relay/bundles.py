"""Bundles that are not as they were written."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from family.manifest import CHAT_TEMPLATE_NAME, MANIFEST_NAME, load_manifest


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


def with_chat_template(bundle: Path, folder: Path, template: str | None) -> Path:
    """A copy with another chat template, or without one."""
    if template is not None:
        return with_file(bundle, folder, CHAT_TEMPLATE_NAME, template)
    files = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]
    del files[CHAT_TEMPLATE_NAME]
    return with_field(bundle, folder, ("files",), files)


def with_file(bundle: Path, folder: Path, name: str, text: str) -> Path:
    """A copy in which the file `name` holds `text`, and the manifest says so."""
    content = text.encode()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    copy = with_field(bundle, folder, ("files", name), entry)
    (copy / name).write_bytes(content)
    return copy


def files_of(bundle: Path, indices: Iterable[int]) -> set[str]:
    """Files that the segments and exits of these indices need."""
    wanted = set(indices)
    return {name for graph in load_manifest(bundle).graphs if graph.index in wanted for name in graph.files}
