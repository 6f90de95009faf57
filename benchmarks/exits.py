"""Cross-entropy of every exit, and its agreement with the last exit of the same bundle, at every precision.

On WikiText-2's test text, detokenised (`training.detokenise`), in windows of 512 tokens that do not overlap;
cross-entropy in nats per token, agreement as the share of positions with the same top-1 token.
"""

from typing import Any

from benchmarks import report
from exporter.quality import WINDOW, bundle_tokenizer, measure_quality
from family.files import sha256_file
from family.manifest import load_manifest

PRECISIONS = ("f32", "int8", "int4", "mixed")
"""Bundles that `make` knows; its `mixed` has 4 bits on the device, 8 on the edge and f32 in the cloud."""
TEXT = "text/wikitext-2/test.txt"
TOKENS = 16384


def measure() -> dict[str, Any]:
    """All precisions on the same tokens."""
    text = report.data(TEXT)
    figures: dict[str, Any] = {}
    for precision in PRECISIONS:
        bundle = report.bundle(precision)
        manifest = load_manifest(bundle)
        tokenizer = bundle_tokenizer(bundle, manifest)
        found = measure_quality(bundle, manifest.graphs, manifest.spec, tokenizer, text, TOKENS)
        figures[precision] = {
            "precision": manifest.precision,
            "tokens": found.tokens,
            "cross_entropy": {f"exit_{e.exit}": round(e.cross_entropy, 3) for e in found.exits},
            "agreement": {f"exit_{e.exit}": round(e.agreement, 3) for e in found.exits},
            "megabytes": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 1),
        }
    return {"text": TEXT, "text_sha256": sha256_file(text), "window": WINDOW, "stride": WINDOW, **figures}


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = ["| precision | exit | cross-entropy | agreement |", "|---|---|---|---|"]
    for precision in PRECISIONS:
        figures = result[precision]
        for name, nats in figures["cross_entropy"].items():
            lines.append(
                f"| {precision} | {name.removeprefix('exit_')} | {nats:.3f} | {figures['agreement'][name]:.1%} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("exits", __doc__, measure, table)
