"""`export-family`: a family folder to a bundle."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from exporter.precision import PRECISIONS, of_segments
from family.cli import existing_file, positive, run
from family.completion import add_completion

if TYPE_CHECKING:
    from family.manifest import Manifest

EVAL_TOKENS = 16384
"""Tokens of the `--eval` text that are scored where `--eval-tokens` says nothing."""

CALIBRATE_TOKENS = 16384
"""Tokens of the `--calibrate` text that are read where `--calibrate-tokens` says nothing."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="export-family",
        description="Write a family as a bundle: one ONNX graph per trunk segment and per exit, each checked against "
        "PyTorch. A bundle that is there is replaced only by a good one.",
    )
    add = result.add_argument
    add("family", type=Path, metavar="FAMILY_DIR", help="the folder that train-family wrote")
    add("--out", type=Path, required=True, metavar="DIR", help="the bundle's directory")
    add("--base", metavar="REF", help="Hugging Face id, folder or .gguf file; default: the one it was trained on")
    add(
        "--precision",
        metavar="P",
        default="int4",
        help=f"of the weights: {', '.join(PRECISIONS)}, or one per tier as in device=int4,edge=int8,cloud=f32; "
        "default: %(default)s",
    )
    add("--rank", type=positive, metavar="R", help="cut low-rank branches to so many components; default: all")
    add(
        "--calibrate",
        type=existing_file,
        metavar="TEXT",
        help="fit quantized weights to this text, which is not --eval's: 4-bit ones for a base that was not stored in "
        "4 bits, 8-bit ones for inputs as they are in it; default: these for text that the base writes itself. "
        "Thresholds that calibrate-family left in the family's folder are of bundles without it",
    )
    add(
        "--calibrate-tokens",
        type=positive,
        default=CALIBRATE_TOKENS,
        metavar="N",
        help="of the text; default: %(default)s",
    )
    add("--eval", type=existing_file, metavar="TEXT", help="measure every exit on this text")
    add("--eval-tokens", type=positive, default=EVAL_TOKENS, metavar="N", help="of the text; default: %(default)s")
    add("--json", action="store_true", help="print the result as JSON")
    add_completion(result)
    return result


def main() -> None:
    """Entry point of the `export-family` command."""
    arguments = parser().parse_args()
    warnings.showwarning = _show_warning

    def command() -> None:
        manifest = export_family(arguments, progress_line(sys.stderr))
        sys.stdout.write(json.dumps(report(manifest), indent=2) + "\n" if arguments.json else table(manifest))

    run(command, name="export-family", extra="export", interrupted="interrupted; nothing was written")


def export_family(arguments: argparse.Namespace, say: Callable[[str], None]) -> "Manifest":
    """Load the family and export it."""
    from exporter.bundle import Held, check_target, export
    from exporter.calibrate import Calibration, check_calibrates
    from exporter.confidence.certify import certificates_of
    from family.manifest import default_tiers
    from family.spec import SPEC_NAME, load_spec
    from training.checkpoint import open_family
    from training.ranks import check_ranks

    check_target(arguments.out)
    spec = load_spec(arguments.family / SPEC_NAME)  # fails sooner than loading the base would
    precisions = of_segments(arguments.precision, default_tiers(spec.granularity))
    if arguments.rank:
        check_ranks(spec.exits, [arguments.rank])
    calibration = None
    if arguments.calibrate:
        check_calibrates(precisions)
        calibration = Calibration(arguments.calibrate, arguments.calibrate_tokens)
    held = Held(arguments.eval, arguments.eval_tokens) if arguments.eval else None
    try:
        say("loading the base")
        family = open_family(arguments.family, arguments.base)
        if arguments.rank:
            family = family.at_most(arguments.rank)
        certificates = () if calibration else certificates_of(arguments.family)
        return export(
            family,
            arguments.out,
            arguments.precision,
            held=held,
            calibration=calibration,
            certificates=certificates,
            say=say,
        )
    finally:
        say("")


def progress_line(terminal: TextIO) -> Callable[[str], None]:
    """A line that is written over on a terminal; nothing in a pipe."""
    if not terminal.isatty():
        return lambda _: None

    def say(text: str) -> None:
        terminal.write(f"\r\x1b[K{text}")
        terminal.flush()

    return say


def report(manifest: "Manifest") -> dict[str, object]:
    """The figures of an export, for `--json`."""
    from family.strict import to_json

    return {
        "family": manifest.spec.name,
        "export_fingerprint": manifest.export_fingerprint,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "graphs": [
            {"name": g.name, "precision": g.precision, "bytes": own_bytes(manifest, g.files)} for g in manifest.graphs
        ],
        "parity": to_json(manifest.parity),
        "quality": to_json(manifest.quality),
    }


def table(manifest: "Manifest") -> str:
    """The figures of an export, for people."""
    lines = [f"{'graph':<12}{'MB':>8}{'max error':>12}{'rms error':>12}{'from f32':>12}"]
    for graph in manifest.graphs:
        parity = manifest.parity[graph.name]
        size = own_bytes(manifest, graph.files) / 1e6
        errors = (parity.max_error, parity.rms_error, parity.f32_error)
        lines.append(f"{graph.name:<12}{size:>8.1f}" + "".join(f"{error:>12.1e}" for error in errors))
    total = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    lines.append(f"{manifest.spec.name} at {manifest.precision}: {total:.1f} MB in all")
    if manifest.quality is not None:
        q = manifest.quality
        lines.append(f"\n{'exit':<12}{'cross-entropy':>15}{'agreement':>12}")
        lines += [f"{e.exit:<12}{e.cross_entropy:>15.3f}{e.agreement:>12.1%}" for e in q.exits]
        if q.codecs:
            lines.append(f"\n{'exit, rows':<12}{'cross-entropy':>15}{'the same':>12}")
            lines += [f"{f'{c.exit}, {c.codec}':<12}{c.cross_entropy:>15.3f}{c.agreement:>12.1%}" for c in q.codecs]
        lines.append(f"{q.text}: {q.tokens} tokens, window {q.window}, stride {q.stride}")
    return "\n".join(lines) + "\n"


def own_bytes(manifest: "Manifest", files: tuple[str, ...]) -> int:
    """Size of a graph's files without what it shares with others."""
    from family.manifest import SHARED_DATA_NAME

    return sum(manifest.files[name].bytes for name in files if name != SHARED_DATA_NAME)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {message}\n")
