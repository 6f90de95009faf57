"""A bundle is written whole or not at all, the same every time, and checked before it replaces another."""

import filecmp
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from exporter import build as build_module
from exporter import bundle as bundle_module
from exporter.bundle import check_target, export
from exporter.describe import check_template, special_tokens, write_tokenizer
from exporter.errors import ExportError
from exporter.graphs import Piece
from exporter.onnxfile import write_graphs
from family.errors import BundleError
from family.files import sha256_file
from family.manifest import SHARED_DATA_NAME, load_manifest, verify_files
from family.spec import FamilySpec
from tests.conftest import tiny_export
from tests.tiny import new_family
from tests.tiny import tiny_family as make_tiny_family
from training.base import load_base
from training.checkpoint import branch_path, save_family
from training.loaded import LoadedFamily

INT4_CEILING = 0.45
"""Bytes of a tiny 4-bit bundle's weights over f32's; the tiny head, at 8 bits, is a large part of it."""


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


@pytest.fixture(scope="module")
def real_size(tiny_base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    """SmolLM2-135M's layers, six of them with random weights, and a small vocabulary."""
    shapes = {"hidden_size": 576, "intermediate_size": 1536, "head_dim": 64}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    family = variant(tiny_base_dir, tmp_path_factory.mktemp("real") / "base", **shapes, **heads)
    with torch.no_grad():
        for name, parameter in family.base.model.named_parameters():
            if "norm" in name:  # so that no two are equal and share their bytes
                parameter += 0.2 * torch.randn_like(parameter)
    return family


@pytest.mark.parametrize(
    ("fixture", "precision"),
    [("tiny_bundle", "f32"), ("tiny_bundle_int8", "int8"), ("tiny_bundle_int4", "int4")],
)
def test_two_exports_are_the_same_to_the_byte(
    fixture: str, precision: str, tiny_family: LoadedFamily, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = request.getfixturevalue(fixture)
    second = tiny_export(tiny_family, tmp_path / "elsewhere" / "again", precision)
    names = sorted(path.name for path in first.iterdir())
    assert sorted(path.name for path in second.iterdir()) == names
    assert filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])


def test_a_bundle_has_exactly_the_files_of_its_manifest(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    for folder in (tiny_bundle, tiny_bundle_int4):
        manifest = load_manifest(folder)
        assert {p.name for p in folder.iterdir()} == {*manifest.files, "manifest.json"}
        verify_files(manifest, folder, manifest.files)
        opened = {name for graph in manifest.graphs for name in graph.files}
        assert {*manifest.files} == opened | {"tokenizer.json", "chat_template.jinja"}


def test_the_tied_head_is_stored_once(tiny_family: LoadedFamily, tiny_bundle: Path) -> None:
    manifest, spec = load_manifest(tiny_bundle), tiny_family.spec
    head = spec.vocab_size * spec.d_model * 4
    assert head <= manifest.files[SHARED_DATA_NAME].bytes < 2 * head
    users = [graph.name for graph in manifest.graphs if SHARED_DATA_NAME in graph.files]
    assert {"segment-1", "exit-1", "exit-2", "exit-3"} <= set(users)
    for graph in manifest.graphs:
        others = {name for g in manifest.graphs if g != graph for name in g.files} - {SHARED_DATA_NAME}
        assert not others.intersection(graph.files)


def test_four_bits_are_smaller(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    def weights(folder: Path) -> int:
        return sum(entry.bytes for name, entry in load_manifest(folder).files.items() if name.endswith(".data"))

    assert weights(tiny_bundle_int4) < INT4_CEILING * weights(tiny_bundle)


def test_graphs_carry_no_trace_of_where_they_were_built(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    for folder in (tiny_bundle, tiny_bundle_int4):
        for path in folder.glob("*.onnx"):
            content = path.read_bytes()
            assert str(folder.parent).encode() not in content
            assert not any(trace in content for trace in (tempfile.gettempdir().encode(), b"built-", b".py"))


def test_hashes_are_those_of_the_family_folder(tiny_family: LoadedFamily, tiny_bundle: Path, tmp_path: Path) -> None:
    save_family(tiny_family, tmp_path)
    hashes = load_manifest(tiny_bundle).hashes
    assert hashes.branches == (sha256_file(branch_path(tmp_path, 1)), sha256_file(branch_path(tmp_path, 2)), "")
    assert hashes.base == tiny_family.base.weights_sha256
    assert hashes.tokenizer == sha256_file(tiny_bundle / "tokenizer.json")


def test_precisions_share_the_family_but_not_the_export(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    exact, quantized = load_manifest(tiny_bundle), load_manifest(tiny_bundle_int4)
    assert exact.family_fingerprint == quantized.family_fingerprint
    assert exact.export_fingerprint != quantized.export_fingerprint
    assert (exact.precision, quantized.precision) == ("f32", "int4")


def test_a_text_ends_at_the_chat_end_and_the_end_of_text(tiny_family: LoadedFamily, tiny_bundle: Path) -> None:
    vocabulary = tiny_family.base.tokenizer.get_vocab()
    stops = load_manifest(tiny_bundle).stop_ids
    assert vocabulary["<|im_end|>"] in stops and vocabulary["<|endoftext|>"] in stops


def test_the_bundle_has_what_its_chat_template_may_name(
    tiny_family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{{ bos_token }}{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% break %}"
    template += "{% endfor %}{{ eos_token }}{{ strftime_now('%Y') }}"
    tokenizer = tiny_family.base.tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", template)
    write_tokenizer(tokenizer, tmp_path)
    special = special_tokens(tokenizer)
    assert special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    check_template(tmp_path, special)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ unknown.attribute }}", "'unknown' is undefined"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_chat_template_that_does_not_render_is_refused_at_once(
    template: str, reason: str, tiny_family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_family.base.tokenizer, "chat_template", template)
    monkeypatch.setattr(bundle_module, "make_pieces", None)
    with pytest.raises(ExportError, match=f"chat template does not render .*{reason}.*; correct chat_template.jinja"):
        tiny_export(tiny_family, tmp_path / "bundle", "f32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["segment-2.data", "exit-1.onnx", "tokenizer.json"])
def test_an_altered_truncated_or_missing_file_is_found(name: str, copy: Path) -> None:
    manifest = load_manifest(copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{name}.*altered"):
        verify_files(manifest, copy, manifest.files)
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name}.*{len(content) - 1} bytes"):
        verify_files(manifest, copy, manifest.files)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing"):
        verify_files(manifest, copy, manifest.files)


def test_a_directory_that_is_no_bundle_is_left_alone(tiny_family: LoadedFamily, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="not a bundle"):
        tiny_export(tiny_family, tmp_path, "f32")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="not a bundle"):
        tiny_export(tiny_family, tmp_path / "file", "f32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "thesis.txt"]


@pytest.mark.parametrize(
    "content", ['{"name": "an extension", "version": "1"}', '["schema_version", "spec", "graphs"]', "{"]
)
def test_a_directory_with_a_manifest_of_something_else_is_left_alone(
    content: str, tiny_family: LoadedFamily, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ExportError, match="not a bundle"):
        tiny_export(tiny_family, tmp_path, "f32")
    assert (tmp_path / "manifest.json").read_text() == content


@pytest.mark.parametrize("out", [".", "..", "sub/..", "/"])
def test_a_directory_in_use_is_refused_before_anything_is_built(
    out: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "sub").mkdir()
    monkeypatch.chdir(copy)
    with pytest.raises(ExportError, match=f"{out}: is in use"):
        check_target(Path(out))


def test_a_link_to_a_bundle_stands_for_the_bundle(tiny_family: LoadedFamily, copy: Path) -> None:
    link = copy.parent / "link"
    link.symlink_to(copy)
    tiny_export(tiny_family, link, "int4")
    assert link.is_symlink() and load_manifest(copy).precision == "int4"


def test_a_bundle_is_replaced_and_nothing_stays_behind(tiny_family: LoadedFamily, copy: Path) -> None:
    (copy / "segment-9.onnx").touch()
    tiny_export(tiny_family, copy, "int4")
    assert load_manifest(copy).precision == "int4"
    assert not (copy / "segment-9.onnx").exists()
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("precision", ["f32", "int4"])
def test_a_corrupted_weight_is_refused_and_the_old_bundle_stays(
    precision: str, tiny_family: LoadedFamily, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copy / "manifest.json").read_text()

    def corrupting(pieces: Mapping[str, Piece], spec: FamilySpec, folder: Path) -> None:
        write_graphs(pieces, spec, folder)
        path = folder / "segment-2.data"
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = content[:4096]
        path.write_bytes(content)

    monkeypatch.setattr(bundle_module, "write_graphs", corrupting)
    with pytest.raises(ExportError, match=r"segment-2: .* over the bound"):
        tiny_export(tiny_family, copy, precision)
    assert (copy / "manifest.json").read_text() == before
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize(
    ("precision", "graph", "weight", "told"),
    [
        ("int4", "segment-1", "model.layers.1.attn.o_proj.MatMul.weight_scales", r"1\.self_attn\.o_proj\.weight as st"),
        ("int4", "exit-2", "model.layers.0.mlp.up_proj.MatMul.weight_scales", r"layers\.4\.mlp\.up_proj\.weight as st"),
        ("int4", "segment-2", "model.layers.3.post_attention_layernorm.weight", "rms_error .* against PyTorch"),
        (
            "int8",
            "segment-1",
            "model.layers.1.attn.o_proj.MatMul.weight_q",
            r"layers\.1\.self_attn\.o_proj\.weight as st",
        ),
        (
            "int8",
            "segment-2",
            "model.layers.3.mlp.down_proj.MatMul.weight_scales",
            r"layers\.3\.mlp\.down_proj\.weight as",
        ),
        ("int8", "segment-2", "model.layers.3.post_attention_layernorm.weight", "rms_error .* against PyTorch"),
        ("int8", "exit-1", "model.layers.0.post_attention_layernorm.weight", "rms_error .* against PyTorch"),
    ],
)
def test_a_matrix_lost_from_a_quantized_graph_of_real_size_is_refused(
    precision: str,
    graph: str,
    weight: str,
    told: str,
    real_size: LoadedFamily,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def losing(pieces: Mapping[str, Piece], spec: FamilySpec, folder: Path) -> None:
        write_graphs(pieces, spec, folder)
        zero(folder, graph, weight)

    monkeypatch.setattr(bundle_module, "write_graphs", losing)
    with pytest.raises(ExportError, match=rf"{graph}: .*{told}.* over the bound"):
        tiny_export(real_size, tmp_path / "bundle", precision)
    assert not list(tmp_path.iterdir())


def zero(folder: Path, graph: str, weight: str) -> None:
    """Fill a weight of a written graph with zeros."""
    model = onnx.load(str(folder / f"{graph}.onnx"), load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == weight)
    where = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / where["location"]).open("r+b") as file:
        file.seek(int(where["offset"]))
        file.write(bytes(int(where["length"])))


def test_parity_of_a_quantized_bundle_is_against_its_own_weights(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    for parity in load_manifest(tiny_bundle_int4).parity.values():
        assert parity.rms_error <= parity.bound < 0.1
        assert parity.f32_error > parity.rms_error
    assert all(parity.f32_error == parity.rms_error for parity in load_manifest(tiny_bundle).parity.values())


def test_a_graph_that_does_not_run_is_refused(
    tiny_family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def truncating(pieces: Mapping[str, Piece], spec: FamilySpec, folder: Path) -> None:
        write_graphs(pieces, spec, folder)
        path = folder / "exit-2.data"
        path.write_bytes(path.read_bytes()[:-8192])

    monkeypatch.setattr(bundle_module, "write_graphs", truncating)
    with pytest.raises(
        ExportError, match=r"exit-2: onnxruntime cannot run it .*; no bundle was written; export it again"
    ):
        tiny_export(tiny_family, tmp_path / "bundle", "f32")
    assert not list(tmp_path.iterdir())


def test_the_manifest_names_the_tools_and_the_parity_of_every_graph(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    assert set(manifest.tools) == {"onnxruntime", "onnxruntime-genai", "torch", "transformers"}
    assert set(manifest.parity) == {graph.name for graph in manifest.graphs}
    assert all(parity.max_error <= parity.bound for parity in manifest.parity.values())
    assert manifest.special_tokens["eos_token"] == "<|im_end|>"
    assert manifest.tiers == {"device": (1,), "edge": (2,), "cloud": (3,)}
    assert "quality" not in json.loads((tiny_bundle / "manifest.json").read_text())


def test_an_early_exit_may_have_no_branch(tiny_family: LoadedFamily, tmp_path: Path) -> None:
    exits = (replace(tiny_family.spec.exits[0], branch="norm"), *tiny_family.spec.exits[1:])
    family = new_family(replace(tiny_family.spec, exits=exits), tiny_family.base)
    with torch.no_grad():
        for parameter in family.model.branches.parameters():
            parameter.mul_(1.5)
    manifest = export(family, tmp_path / "bundle", "f32")
    assert manifest.graph("exit", 1).kv_layers == 0
    assert manifest.hashes.branches[0] != ""


def variant(base: Path, folder: Path, **config: object) -> LoadedFamily:
    """A tiny family on the tiny base's tokenizer and another config."""
    shutil.copytree(base, folder)
    changed = AutoConfig.from_pretrained(base, **config)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(changed).save_pretrained(folder)
    return make_tiny_family(load_base(str(folder)))


@pytest.mark.parametrize("precision", ["f32", "int4"])
def test_a_base_with_a_head_of_its_own_is_supported(precision: str, tiny_base_dir: Path, tmp_path: Path) -> None:
    family = variant(tiny_base_dir, tmp_path / "base", tie_word_embeddings=False)
    assert not torch.equal(family.base.model.lm_head.weight, family.base.model.model.embed_tokens.weight)
    manifest = export(family, tmp_path / "bundle", precision)
    assert len(manifest.parity) == 6


def test_rope_as_in_llama_3_is_supported_and_others_are_refused(tiny_base_dir: Path, tmp_path: Path) -> None:
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    family = variant(tiny_base_dir, tmp_path / "llama3", rope_parameters=llama3)
    export(family, tmp_path / "bundle", "f32")
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    family = variant(tiny_base_dir, tmp_path / "dynamic", rope_parameters=dynamic)
    with pytest.raises(ExportError, match="rope type 'dynamic' is not supported; give a base with one of default"):
        export(family, tmp_path / "refused", "f32")


def test_a_builder_that_fails_is_told_in_one_line_with_advice(
    tiny_family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        sys.stdout.write("first line\nlast line\n")
        raise ValueError("no such\noperator")

    monkeypatch.setattr(build_module, "_builder", lambda: SimpleNamespace(parse_extra_options=failing))
    with pytest.raises(
        ExportError, match=r"failed \(no such operator last line\); give another base, or install the ver"
    ):
        tiny_export(tiny_family, tmp_path / "bundle", "f32")
