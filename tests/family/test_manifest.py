"""A manifest is read strictly; fingerprints tell families and exports apart; tiers map to segments."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from family.errors import ManifestError
from family.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    ExitQuality,
    FileEntry,
    Graph,
    Hashes,
    Manifest,
    Parity,
    Quality,
    check_segments,
    default_tiers,
    graph_name,
    load_manifest,
    save_manifest,
)
from family.strict import FieldError
from tests.family.test_spec import SPEC

KINDS = [(kind, g) for kind in ("segment", "exit") for g in (1, 2, 3)]


def make_manifest() -> Manifest:
    graphs = tuple(Graph(kind, g, "f32", 2, (f"{kind}-{g}.onnx", "shared.data")) for kind, g in KINDS)
    names = sorted({name for graph in graphs for name in graph.files} | {"tokenizer.json"})
    return Manifest(
        schema_version=MANIFEST_VERSION,
        spec=SPEC,
        hashes=Hashes("b" * 64, ("1" * 64, "2" * 64, ""), "e" * 64),
        stop_ids=(0, 2),
        tiers=default_tiers(3),
        graphs=graphs,
        files={name: FileEntry(10, name[0] * 64) for name in names},
        parity={graph.name: Parity(1e-6, 2e-7, 1e-4, 2e-7) for graph in graphs},
        tools={"torch": "2.13"},
        quality=Quality("text", "c" * 64, 512, 256, 256, (ExitQuality(1, 4.0, 0.5),)),
        special_tokens={"eos_token": "<end>"},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_manifest(make_manifest(), tmp_path)
    return tmp_path


def change(folder: Path, edit: Callable[[Any], None]) -> None:
    path = folder / MANIFEST_NAME
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_a_manifest_survives_the_file(saved: Path) -> None:
    assert load_manifest(saved) == make_manifest()
    assert load_manifest(saved).graph("exit", 2).name == graph_name("exit", 2) == "exit-2"


def test_quality_and_special_tokens_may_be_left_out(saved: Path) -> None:
    change(saved, lambda d: (d.pop("quality"), d.pop("special_tokens")))
    assert load_manifest(saved) == replace(make_manifest(), quality=None, special_tokens={})


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda d: d.pop("stop_ids"), "stop_ids: missing"),
        (lambda d: d.update(colour="red"), "colour: unknown field"),
        (lambda d: d["graphs"].pop(), "graphs: exit-3 is missing"),
        (lambda d: d["graphs"][1].update(kv_layers="2"), "graphs[1].kv_layers: expected an integer"),
        (lambda d: d["graphs"][1].update(files=[]), "graphs[1].files: expected the ONNX file first"),
        (lambda d: d["graphs"].append({**d["graphs"][0], "kind": "branch"}), "graphs[6].kind: expected one of"),
        (lambda d: d["files"].pop("tokenizer.json"), "files: tokenizer.json is missing"),
        (lambda d: d["special_tokens"].update(bos_token=1), "special_tokens.bos_token: expected a string"),
        (lambda d: d["files"].pop("exit-1.onnx"), "graphs[3].files: exit-1.onnx is not in files"),
        (lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": "0"}}), "files.../x: expected a path inside"),
        (lambda d: d["files"]["shared.data"].update(bytes=1.5), "files.shared.data.bytes: expected an integer"),
        (lambda d: d["tiers"].update(device=[1, 3]), "tiers.device: expected consecutive segments"),
        (lambda d: d["spec"].update(n_layers=5), "exits: the last exit must be after the last layer"),
        (lambda d: d["parity"]["exit-1"].pop("bound"), "parity.exit-1.bound: missing"),
        (lambda d: d.update(schema_version=MANIFEST_VERSION + 1), "this release reads version"),
    ],
)
def test_a_malformed_manifest_names_the_field(edit: Callable[[Any], None], told: str, saved: Path) -> None:
    change(saved, edit)
    with pytest.raises(ManifestError) as error:
        load_manifest(saved)
    assert told in str(error.value) and MANIFEST_NAME in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\x80"])
def test_a_file_that_is_no_manifest_is_refused(content: bytes, saved: Path) -> None:
    (saved / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ManifestError, match="export"):
        load_manifest(saved)


def test_a_directory_without_a_manifest_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ManifestError, match="the directory that export-family wrote"):
            load_manifest(place)


def test_fingerprints_follow_what_they_name() -> None:
    manifest = make_manifest()
    other_family = replace(manifest, hashes=replace(manifest.hashes, tokenizer="f" * 64))
    other_weights = replace(manifest, files={**manifest.files, "shared.data": FileEntry(10, "9" * 64)})
    other_report = replace(manifest, quality=None, tools={}, parity={})
    assert other_family.family_fingerprint != manifest.family_fingerprint
    assert other_family.export_fingerprint != manifest.export_fingerprint
    assert other_weights.family_fingerprint == manifest.family_fingerprint
    assert other_weights.export_fingerprint != manifest.export_fingerprint
    assert other_report.export_fingerprint == manifest.export_fingerprint


def test_precision_is_one_word_unless_tiers_differ() -> None:
    manifest = make_manifest()
    assert manifest.precision == "f32"
    mixed = replace(manifest, graphs=(replace(manifest.graphs[0], precision="int4"), *manifest.graphs[1:]))
    assert mixed.precision == "device=f32+int4,edge=f32,cloud=f32"
    graphs = tuple(replace(g, precision="int8") if g.index == 2 else g for g in manifest.graphs)
    assert replace(manifest, graphs=graphs).precision == "device=f32,edge=int8,cloud=f32"


@pytest.mark.parametrize("granularity", range(1, 7))
def test_default_tiers_cover_every_segment_once(granularity: int) -> None:
    tiers = default_tiers(granularity)
    assert [s for segments in tiers.values() for s in segments] == list(range(1, granularity + 1))
    assert list(default_tiers(3)) == ["device", "edge", "cloud"]


@pytest.mark.parametrize("segments", [[], [2, 1], [1, 3], [0], [3, 4], [1, 1]])
def test_segments_that_are_not_consecutive_are_refused(segments: list[int]) -> None:
    with pytest.raises(FieldError, match=r"consecutive segments of 1\.\.3"):
        check_segments(segments, 3)
    check_segments([2, 3], 3)
