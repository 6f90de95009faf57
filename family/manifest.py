"""`Manifest`: what a bundle holds, file by file, and the two fingerprints that peers compare.

A bundle is a directory: `manifest.json`, one ONNX graph per trunk segment (`segment-g.onnx`) and one per exit
(`exit-g.onnx`), their weights (`*.data`), and the tokenizer. Its names are made here and nowhere else.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from family.certificate import Certificate
from family.errors import BundleError, ManifestError
from family.files import sha256_file, write_atomic
from family.spec import FamilySpec
from family.strict import FieldError, canonical, dumps, from_json

MANIFEST_VERSION = 3
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
SHARED_DATA_NAME = "shared.data"
"""Weights that more than one graph reads (the tied head), stored once."""

GRAPH_KINDS = ("segment", "exit")
DEFAULT_TIERS = ("device", "edge", "cloud")


def graph_name(kind: str, index: int) -> str:
    """`segment-1`, `exit-3`: the name of a graph and the stem of its files."""
    return f"{kind}-{index}"


@dataclass(frozen=True)
class FileEntry:
    """Size and hash of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Graph:
    """One ONNX graph. Inputs and outputs are described in `family.graphs`."""

    kind: str
    """`segment` or `exit`."""
    index: int
    """g, counted from 1."""
    precision: str
    """How its weights are stored, for example `f32` or `int4`."""
    kv_layers: int
    """Attention layers, each with one key and one value buffer: 0 for an exit without a branch."""
    files: tuple[str, ...]
    """Files that must be present to open it; the first is the ONNX file."""

    @property
    def name(self) -> str:
        return graph_name(self.kind, self.index)


@dataclass(frozen=True)
class Parity:
    """How far a graph is from PyTorch on the same input and with the same stored weights, when it was written.

    Errors are taken per row (one position's output), on the row's own scale.
    """

    max_error: float
    """Largest over rows: the largest absolute difference over the range of PyTorch's row."""
    rms_error: float
    """Root mean square over rows: the difference's rms over that of PyTorch's row."""
    bound: float
    """Bound that the export had to meet: on `max_error` at f32, on `rms_error` where weights are quantized."""
    f32_error: float
    """As `rms_error`, but against PyTorch with the weights before quantization: what the precision costs. No bound."""


@dataclass(frozen=True)
class ExitQuality:
    """Measured quality of exit g on a text."""

    exit: int
    cross_entropy: float
    """Nats per token."""
    agreement: float
    """Share of positions whose top-1 token is the last exit's of this bundle."""


@dataclass(frozen=True)
class CodecQuality:
    """Measured quality of exit g where the rows reach it in a codec, with a node for each segment."""

    codec: str
    """As `relay.names.Codec` has it, for example `int8`."""
    exit: int
    cross_entropy: float
    """Nats per token."""
    agreement: float
    """Share of positions whose top-1 token is the same exit's with exact rows."""


@dataclass(frozen=True)
class Quality:
    """Cross-entropy and agreement per exit, with the protocol that gave them."""

    text: str
    text_sha256: str
    tokens: int
    window: int
    stride: int
    exits: tuple[ExitQuality, ...]
    """With exact rows."""
    codecs: tuple[CodecQuality, ...] = ()
    """Of the lossy codecs, for each exit but the first, which no rows are sent to."""


@dataclass(frozen=True)
class Hashes:
    """Content that makes the family what it is."""

    base: str
    branches: tuple[str, ...]
    """SHA-256 of each branch file, exits in order; empty for an exit without one."""
    tokenizer: str


@dataclass(frozen=True)
class Manifest:
    """The contract between the exporter and everything that reads a bundle."""

    schema_version: int
    spec: FamilySpec
    hashes: Hashes
    stop_ids: tuple[int, ...]
    """Token ids that end a text."""
    tiers: Mapping[str, tuple[int, ...]]
    """Tier name to the segments that it serves by default, in relay order."""
    graphs: tuple[Graph, ...]
    files: Mapping[str, FileEntry]
    parity: Mapping[str, Parity]
    tools: Mapping[str, str]
    """Versions of the libraries that wrote the graphs."""
    quality: Quality | None = field(default=None)
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """Texts that the chat template may name, by the tokenizer's names for them: `bos_token`, `eos_token`, ..."""
    certificate: Certificate | None = field(default=None)
    """Thresholds with a promise. It changes nothing that a graph computes, so it is part of no fingerprint."""

    def __post_init__(self) -> None:
        names = {g.name for g in self.graphs}
        for segment in self.spec.segments:
            for kind in GRAPH_KINDS:
                if graph_name(kind, segment.index) not in names:
                    raise FieldError("graphs", f"{graph_name(kind, segment.index)} is missing")
        if TOKENIZER_NAME not in self.files:
            raise FieldError("files", f"{TOKENIZER_NAME} is missing")
        for i, graph in enumerate(self.graphs):
            if graph.kind not in GRAPH_KINDS:
                raise FieldError(f"graphs[{i}].kind", f"expected one of {GRAPH_KINDS}, got {graph.kind!r}")
            if not graph.files:
                raise FieldError(f"graphs[{i}].files", "expected the ONNX file first, got an empty list")
            for name in graph.files:
                if name not in self.files:
                    raise FieldError(f"graphs[{i}].files", f"{name} is not in files")
        for name in self.files:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise FieldError(f"files.{name}", "expected a path inside the bundle")
        for tier, segments in self.tiers.items():
            check_segments(segments, self.spec.granularity, f"tiers.{tier}")
        if self.certificate is not None:
            self._check_certificate(self.certificate)

    def certifies(self, certificate: Certificate) -> bool:
        """Whether a certificate was made on this family at this precision."""
        return (certificate.family, certificate.precision) == (self.family_fingerprint, self.precision)

    def _check_certificate(self, certificate: Certificate) -> None:
        if not self.certifies(certificate):
            raise FieldError("certificate", "made for another family or precision; run calibrate-family on this bundle")
        for i, rule in enumerate(certificate.rules):
            if len(rule.thresholds) != self.spec.granularity - 1:
                raise FieldError(f"certificate.rules[{i}].thresholds", "expected one for each exit but the last")

    def graph(self, kind: str, index: int) -> Graph:
        """The graph `segment-index` or `exit-index`."""
        return next(g for g in self.graphs if g.kind == kind and g.index == index)

    @property
    def precision(self) -> str:
        """The precision of all graphs, or that of every tier, as `export-family --precision` takes it."""
        tiers = {
            tier: "+".join(sorted({g.precision for g in self.graphs if g.index in segments}))
            for tier, segments in self.tiers.items()
        }
        kinds = {g.precision for g in self.graphs}
        return kinds.pop() if len(kinds) == 1 else ",".join(f"{tier}={kind}" for tier, kind in tiers.items())

    @property
    def family_fingerprint(self) -> str:
        """Hash of spec, base, branches and tokenizer: equal where rows and token ids mean the same."""
        return hashlib.sha256(canonical({"spec": self.spec, "hashes": self.hashes})).hexdigest()

    @property
    def export_fingerprint(self) -> str:
        """Hash of the family and each graph's precision and content: equal where results are the same to the bit."""
        graphs = [(g.name, g.precision, [self.files[f].sha256 for f in g.files]) for g in self.graphs]
        return hashlib.sha256(canonical({"family": self.family_fingerprint, "graphs": graphs})).hexdigest()


def default_tiers(granularity: int) -> dict[str, tuple[int, ...]]:
    """One tier per segment: device, edge, cloud for G = 3; with more, the tiers between are edge1, edge2, ..."""
    if granularity == 1:
        return {DEFAULT_TIERS[-1]: (1,)}
    if granularity == 2:
        return {DEFAULT_TIERS[0]: (1,), DEFAULT_TIERS[-1]: (2,)}
    middle = granularity - 2
    names = [DEFAULT_TIERS[1]] if middle == 1 else [f"{DEFAULT_TIERS[1]}{i + 1}" for i in range(middle)]
    ordered = (DEFAULT_TIERS[0], *names, DEFAULT_TIERS[-1])
    return {name: (i + 1,) for i, name in enumerate(ordered)}


def check_segments(segments: Iterable[int], granularity: int, path: str = "segments") -> None:
    """Raise `FieldError` unless `segments` are consecutive numbers of 1..granularity."""
    given = list(segments)
    if not given or given != list(range(given[0], given[-1] + 1)) or given[0] < 1 or given[-1] > granularity:
        raise FieldError(path, f"expected consecutive segments of 1..{granularity}, got {given}")


def load_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest. Raises `ManifestError` that names the file and the field."""
    path = bundle / MANIFEST_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"{path}: no such file; give the directory that export-family wrote") from None
    except ValueError as error:
        raise ManifestError(f"{path}: not JSON ({error}); export the bundle again") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != MANIFEST_VERSION:
        raise ManifestError(
            f"{path}: schema_version: this release reads version {MANIFEST_VERSION}, the bundle is of {version}; "
            "export it again with this release, or install the release that wrote it"
        )
    try:
        return from_json(Manifest, data)
    except FieldError as error:
        raise ManifestError(f"{path}: {error}; export the bundle again") from None


def save_manifest(manifest: Manifest, bundle: Path) -> None:
    """Write `manifest.json`, whole or not at all."""
    write_atomic(bundle / MANIFEST_NAME, dumps(manifest))


def verify_files(manifest: Manifest, bundle: Path, names: Iterable[str]) -> None:
    """Check presence, size and hash of the named files. Raises `BundleError` for the first that is not as written."""
    for name in names:
        path, entry = bundle / name, manifest.files[name]
        if not path.is_file():
            raise BundleError(f"{path}: missing; copy the bundle again or export it anew")
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(f"{path}: {size} bytes where the manifest says {entry.bytes}; copy the bundle again")
        if sha256_file(path) != entry.sha256:
            raise BundleError(f"{path}: its content was altered (SHA-256 differs from the manifest's); copy it again")
