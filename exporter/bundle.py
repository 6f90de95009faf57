"""Writes a bundle: builds and cuts the graphs, checks them against PyTorch, and puts them in place as a whole."""

import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.calibrate import Calibration, calibrated, check_calibrates, four_bit_layers, windows_of
from exporter.describe import check_template, describe, family_hashes, special_tokens, stop_ids, write_tokenizer
from exporter.errors import ExportError
from exporter.factors import with_factors
from exporter.onnxfile import write_graphs
from exporter.parity import check
from exporter.pieces import make_pieces
from exporter.precision import of_segments
from exporter.quality import LOSSY, measure_quality
from exporter.samples import own_text
from exporter.smooth import integer_blocks, smoothed
from family.certificate import Certificate
from family.files import sha256_file
from family.manifest import MANIFEST_NAME, MANIFEST_VERSION, FileEntry, Manifest, default_tiers, save_manifest
from training.loaded import LoadedFamily

TOOLS = ("onnxruntime", "onnxruntime-genai", "torch", "transformers")


@dataclass(frozen=True)
class Held:
    """Held-out text to measure the exits on."""

    text: Path
    tokens: int
    """At most this many tokens of it."""


def export(
    family: LoadedFamily,
    out: Path,
    precision: str,
    *,
    held: Held | None = None,
    calibration: Calibration | None = None,
    certificates: Iterable[Certificate] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write the family as a bundle to the directory `out`, replacing a bundle that is there.

    Args:
        family: the family, on its base.
        out: the bundle's directory; it appears whole, or not at all.
        precision: one of `exporter.precision.PRECISIONS`, or one per tier as `device=int4,edge=int8,cloud=f32`.
        held: text to measure the written graphs on, for the manifest's `quality`.
        calibration: text to calibrate those 4-bit weights on that were not stored in 4 bits, and to smooth 8-bit blocks
            on; without it those weights are rounded, and these blocks smoothed on the base's own text.
        certificates: thresholds with a promise; the bundle has the first that was made for this family and precision.
        say: told what is being done, for a progress line.

    Raises:
        ExportError: `out` holds something else, the precision or the model is not supported, or a graph is too far from
            PyTorch.
        DataError: a text cannot be read.
    """
    out = check_target(out)
    precisions = of_segments(precision, default_tiers(family.spec.granularity))
    stored = prepared(family, precisions, calibration, say)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        manifest = write_bundle(family, stored, folder, precisions, held, say)
        fitting = next((one for one in certificates if manifest.certifies(one)), None)
        if fitting is not None:
            manifest = replace(manifest, certificate=fitting)
            save_manifest(manifest, folder)
        put_in_place(folder, out, Path(scratch) / "replaced")
    return manifest


def prepared(
    family: LoadedFamily,
    precisions: Mapping[int, str],
    calibration: Calibration | None,
    say: Callable[[str], None],
) -> LoadedFamily:
    """The family with the weights that are stored: maps in factors, 4-bit ones calibrated, 8-bit blocks smoothed."""
    stored, windows = with_factors(family), None
    if calibration is not None:
        check_calibrates(precisions)
        windows = windows_of(calibration, family.base.tokenizer, family.spec.context)
        if layers := four_bit_layers(family.spec, precisions):
            stored = calibrated(stored, layers, windows, say)
    if integer_blocks(stored, precisions):
        if windows is None:
            say("letting the base write a text")
            windows = own_text(family)
        stored = smoothed(stored, precisions, windows, say)
    return stored


def write_bundle(
    family: LoadedFamily,
    stored: LoadedFamily,
    folder: Path,
    precisions: Mapping[int, str],
    held: Held | None,
    say: Callable[[str], None],
) -> Manifest:
    """Write and check a bundle in the empty directory `folder`, with scratch files beside it.

    `stored` is the family with the weights that the graphs are made of: itself, or a `prepared` one.
    """
    scratch, spec, tokenizer = folder.parent, family.spec, family.base.tokenizer
    write_tokenizer(tokenizer, folder)
    special = special_tokens(tokenizer)
    check_template(folder, special)
    pieces = make_pieces(stored, precisions, scratch, say)
    say("writing the graphs")
    write_graphs(pieces, spec, folder)
    graphs = describe(pieces, precisions, folder)
    say("comparing with PyTorch")
    parity = check(folder, graphs, family, stored)
    quality = None
    if held is not None:
        done = [0]

        def progress(tokens: int) -> None:
            done[0] += tokens
            say(f"measuring quality: {done[0]} tokens")

        quality = measure_quality(folder, graphs, spec, tokenizer, held.text, held.tokens, LOSSY, progress)
    manifest = Manifest(
        schema_version=MANIFEST_VERSION,
        spec=spec,
        hashes=family_hashes(family, folder, scratch / "family"),
        stop_ids=stop_ids(family),
        tiers=default_tiers(spec.granularity),
        graphs=graphs,
        files=file_entries(folder),
        parity=parity,
        tools={name: importlib.metadata.version(name) for name in TOOLS},
        quality=quality,
        special_tokens=special,
    )
    save_manifest(manifest, folder)
    return manifest


def file_entries(folder: Path) -> Mapping[str, FileEntry]:
    """Size and hash of every file in `folder`, by name."""
    return {path.name: FileEntry(path.stat().st_size, sha256_file(path)) for path in sorted(folder.iterdir())}


def check_target(out: Path) -> Path:
    """The directory that `out` means, links followed. Raises `ExportError` unless it can be made or replaced."""
    target = out.resolve()
    if target == Path.cwd() or target in Path.cwd().parents or target.is_mount():
        raise ExportError(f"{out}: is in use and cannot be replaced; give a directory that is the bundle's alone")
    if target.exists() and not _is_bundle(target):
        raise ExportError(f"{out}: exists and is not a bundle; give another directory or remove it")
    return target


def _is_bundle(folder: Path) -> bool:
    """Whether nothing would be lost with it: an empty directory, or one with a bundle's manifest, of any version."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder.is_dir()
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "spec", "graphs"} <= manifest.keys()


def put_in_place(folder: Path, out: Path, old: Path) -> None:
    """Move the finished bundle to `out`; what was there moves to `old`, and back should the new one not fit."""
    folder.chmod(0o755)
    if out.exists():
        out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
