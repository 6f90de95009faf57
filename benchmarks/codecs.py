"""What the codecs of rows cost in nats, bytes and time (`relay.codec`), on the rows of the repository's family at f32.

On WikiText-2's test text, detokenised (`training.detokenise`), in windows of 512 tokens that do not overlap, with a
node for each segment, so rows for exit 3 are rounded twice. `nats_int8` is how much the cross-entropy rises in nats per
token, at the exit where it does most; `agreement` the share of positions whose most probable token is the same exit's
with exact rows, at the exit where it is least. `bytes_per_row` leaves out the 16 bytes of a row's chain value, which
every codec has. Times are medians, in microseconds for a row, of one row alone and of a window together.
"""

import time
from statistics import median
from typing import Any

from benchmarks import report
from exporter.quality import LOSSY, bundle_tokenizer, measure_quality
from exporter.runner import GraphRunner
from family.files import sha256_file
from family.manifest import load_manifest
from relay.codec import decode, encode, row_bytes
from relay.log import Rows
from relay.names import Codec
from training.data import eval_ids

TEXT = "text/wikitext-2/test.txt"
TOKENS = 16384
ROUNDS = 31


def measure() -> dict[str, Any]:
    """All codecs on the same tokens."""
    bundle, text = report.bundle("f32"), report.data(TEXT)
    manifest = load_manifest(bundle)
    tokenizer = bundle_tokenizer(bundle, manifest)
    found = measure_quality(bundle, manifest.graphs, manifest.spec, tokenizer, text, TOKENS, LOSSY)
    exact = {e.exit: e.cross_entropy for e in found.exits}
    exits: dict[str, dict[str, dict[str, float]]] = {codec.label: {} for codec in LOSSY}
    for c in found.codecs:
        figures = {"nats": round(c.cross_entropy - exact[c.exit], 4), "agreement": round(c.agreement, 4)}
        exits[c.codec][f"exit_{c.exit}"] = figures
    size = {codec: row_bytes(codec, manifest.spec.d_model) for codec in Codec}
    segment = GraphRunner(bundle, manifest.graph("segment", 1), manifest.spec)
    rows = segment.run(eval_ids(text, tokenizer, found.window), 0)
    return {
        "text": TEXT,
        "text_sha256": sha256_file(text),
        "tokens": found.tokens,
        "window": found.window,
        "stride": found.stride,
        "d_model": manifest.spec.d_model,
        "cross_entropy": {f"exit_{exit_}": round(nats, 4) for exit_, nats in exact.items()},
        **{f"nats_{name}": max(e["nats"] for e in per.values()) for name, per in exits.items()},
        "agreement": {name: min(e["agreement"] for e in per.values()) for name, per in exits.items()},
        "exits": exits,
        "bytes_per_row": {codec.label: size[codec] for codec in Codec},
        "bytes_ratio_int4_vs_bf16": round(size[Codec.BF16] / size[Codec.INT4], 3),
        "microseconds_per_row": {codec.label: times(rows, codec) for codec in Codec},
    }


def times(rows: Rows, codec: Codec) -> dict[str, float]:
    """Microseconds that a row takes to encode and to decode: alone, and with all the rows in one message."""
    found = {}
    for how, part in (("alone", rows[-1:]), ("together", rows)):
        encoding, decoding = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            data = encode(part, codec)
            encoded = time.perf_counter()
            decode(data, codec, *part.shape)
            encoding.append(encoded - started)
            decoding.append(time.perf_counter() - encoded)
        found[f"encode_{how}"] = round(median(encoding) / len(part) * 1e6, 2)
        found[f"decode_{how}"] = round(median(decoding) / len(part) * 1e6, 2)
    return found


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown tables."""
    lines = ["| rows as | exit | nats | agreement |", "|---|---|---|---|"]
    for codec, per in result["exits"].items():
        for name, of in per.items():
            lines.append(f"| {codec} | {name.removeprefix('exit_')} | {of['nats']:+.4f} | {of['agreement']:.1%} |")
    lines += ["", "| rows as | bytes | µs to encode: alone, together | µs to decode |", "|---|---|---|---|"]
    for codec, us in result["microseconds_per_row"].items():
        encoding, decoding = (f"{us[f'{way}_alone']:.1f}, {us[f'{way}_together']:.1f}" for way in ("encode", "decode"))
        lines.append(f"| {codec} | {result['bytes_per_row'][codec]} | {encoding} | {decoding} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    report.main("codecs", __doc__, measure, table)
