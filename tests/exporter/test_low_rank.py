"""Low-rank branches are exported in factors: less for a smaller rank, and what the sub-models of that rank say."""

import asyncio
import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from exporter import bundle as bundle_module
from exporter import cli
from exporter.bundle import export
from exporter.dequantize import stored_matrices
from exporter.errors import ExportError
from exporter.factors import with_factors
from exporter.graphs import Piece
from exporter.onnxfile import write_graphs
from exporter.parity import F32_BOUND, compare
from exporter.quality import bundle_logits
from exporter.smooth import divide, divisors, edges_of, integer_blocks
from family.files import sha256_file
from family.manifest import load_manifest
from family.spec import Base, Exit, FamilySpec
from relay.policy import ExitSchedule
from tests.exporter.helpers import Bundle, chunks, wandering
from tests.exporter.test_bundle import zero
from tests.relay.servers import chain, single, text
from training.base import load_base
from training.checkpoint import branch_path, save_family
from training.loaded import LoadedFamily
from training.modeling import FamilyForCausalLM
from training.shapes import new_spec

EXITS = (Exit(2, "lowrank", 40), Exit(4, "lowrank", 12), Exit(6, "norm"))
RANKS = (12, 5)
"""Ranks at which every map of the tiny family is smaller in factors; at 40 none of k, v, q and o is."""
INT8 = dict.fromkeys((1, 2, 3), "int8")


@pytest.fixture(scope="module")
def family(tiny_base_dir: Path) -> LoadedFamily:
    """Its components in order, and some way from the trunk's layers."""
    base = load_base(str(tiny_base_dir))
    model = FamilyForCausalLM.from_base(EXITS, base.model, [torch.arange(3, 259).view(2, 128)])
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.branches.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            parameter.copy_(parameter.to(torch.bfloat16))  # what a family folder holds
    return LoadedFamily(new_spec("tiny-low", Base(base.id, base.weights_sha256), base.model, EXITS), base, model)


@pytest.fixture(scope="module")
def bundles(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """At f32, by the rank that the family is cut to."""
    folder = tmp_path_factory.mktemp("low")
    for rank in (40, *RANKS):
        export(family.at_most(rank), folder / str(rank), "f32")
    return {rank: folder / str(rank) for rank in (40, *RANKS)}


def matrices(bundle: Path, g: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the matrices that an exit's products read, its head aside."""
    graph = onnx.load(str(bundle / f"exit-{g}.onnx"), load_external_data=False).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    return {node.input[1]: shapes[node.input[1]] for node in graph.node if node.op_type == "MatMul"}


@pytest.mark.parametrize("rank", [40, *RANKS])
def test_logits_are_those_of_the_sub_models_of_that_rank(
    rank: int, family: LoadedFamily, bundles: dict[int, Path]
) -> None:
    manifest = load_manifest(bundles[rank])
    assert [e.rank for e in manifest.spec.exits] == [min(rank, 40), min(rank, 12), None]
    ids = np.random.default_rng(5).integers(0, 512, 100)
    found = bundle_logits(bundles[rank], manifest.graphs, manifest.spec)(ids)
    for g, exit_ in enumerate(manifest.spec.exits, start=1):
        with torch.no_grad():
            expected = family.model.submodel(g, exit_.rank)(torch.from_numpy(ids)[None]).logits[0].numpy()
        assert compare(found[g], expected)[0] < F32_BOUND
        assert np.array_equal(found[g].argmax(1), expected.argmax(1))


def test_a_map_is_two_products_where_these_have_fewer_weights(bundles: dict[int, Path]) -> None:
    rank5, rank40 = matrices(bundles[5], 1), matrices(bundles[40], 1)
    assert len(rank5) == 2 * 7
    assert rank5["model.layers.0.attn.k_proj.0.MatMul.weight"] == (64, 5)
    assert rank5["model.layers.0.attn.k_proj.1.MatMul.weight"] == (5, 32)
    assert rank40["model.layers.0.mlp.down_proj.0.MatMul.weight"] == (160, 40)
    assert rank40["model.layers.0.attn.qkv_proj.MatMul.weight"] == (64, 128)
    assert len(rank40) == 1 + 1 + 2 * 3


def test_a_bundle_is_smaller_at_a_smaller_rank(bundles: dict[int, Path]) -> None:
    sides = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 160)  # q and o, k and v, gate, up and down
    for rank in RANKS:
        assert sum(int(np.prod(shape)) for shape in matrices(bundles[rank], 1).values()) == rank * sides
    sizes = [sum(entry.bytes for entry in load_manifest(bundles[rank]).files.values()) for rank in (40, *RANKS)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_chunks_change_no_bit_at_any_rank(bundles: dict[int, Path]) -> None:
    n = 40
    for folder in bundles.values():
        bundle = Bundle(folder, np.random.default_rng(0).integers(0, 512, n))
        for g in (1, 2):
            graph = bundle.manifest.graph("exit", g)
            expected, runner = bundle.one_shot(graph), bundle.runner(graph)
            for history in (chunks(cycle([1]), n), chunks(cycle([2, 7, 1]), n), wandering(0, n)):
                assert np.array_equal(bundle.replay(runner, history), expected), (folder.name, graph.name)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_factors_are_the_familys_rounded_each(precision: str, family: LoadedFamily, tmp_path: Path) -> None:
    manifest = export(family.at_most(5), tmp_path / "bundle", precision)
    found = stored_matrices(tmp_path / "bundle" / "exit-2.onnx", manifest.spec, 4)
    assert len(found) == 2 * 7 + 1
    assert found["model.layers.4.mlp.up_proj.0.weight"].shape == (5, 64)
    for parity in (manifest.parity["exit-1"], manifest.parity["exit-2"]):
        assert parity.rms_error < 0.02 and parity.f32_error < 0.05


@pytest.mark.parametrize(
    ("precision", "weight", "told"),
    [
        ("f32", "mlp.up_proj.1.MatMul.weight", "max_error"),
        ("int8", "mlp.up_proj.1.MatMul.weight_q", r"model\.layers\.2\.mlp\.up_proj\.1\.weight as stored"),
    ],
)
def test_a_lost_factor_is_refused(
    precision: str, weight: str, told: str, family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(pieces: Mapping[str, Piece], spec: FamilySpec, folder: Path) -> None:
        write_graphs(pieces, spec, folder)
        zero(folder, "exit-1", f"model.layers.0.{weight}")

    monkeypatch.setattr(bundle_module, "write_graphs", losing)
    with pytest.raises(ExportError, match=rf"exit-1: {told} .* over the bound"):
        export(family.at_most(12), tmp_path / "bundle", precision)


def test_what_is_between_two_factors_is_evened_out_without_a_bit_of_difference(family: LoadedFamily) -> None:
    found = with_factors(family.at_most(12))
    ids = torch.randint(512, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = found.model.forward_exits(ids)
        for block in integer_blocks(found, INT8):
            for edge in edges_of(block):
                divide(edge, divisors(edge, torch.rand(len(edge.maker.weight)) * 100))
        after = found.model.forward_exits(ids)
    assert len(edges_of(found.model.branch(1).block)) == 3 + 7
    assert all(torch.equal(before[g], after[g]) for g in (1, 2, 3))


def test_relayed_tokens_are_the_sub_models(family: LoadedFamily, bundles: dict[int, Path]) -> None:
    prompt = list(range(3, 20))

    async def scenario() -> None:
        async with chain(bundles[5]) as nodes, single(bundles[5]) as one:
            options = {"policy": ExitSchedule(3), "max_tokens": 16, "ignore_stop": True}
            relayed, whole = [await text(client, prompt, **options) for client in (nodes.device, one)]
        assert [(t.id, t.exit) for t in relayed] == [(t.id, t.exit) for t in whole]
        ids = torch.tensor([prompt + [t.id for t in relayed]])
        for token in relayed:
            with torch.no_grad():
                rank = 5 if token.exit < 3 else None
                logits = family.model.submodel(token.exit, rank)(ids[:, : token.position]).logits[0, -1]
            assert token.id == int(logits.argmax())

    asyncio.run(scenario())


def test_the_manifest_is_of_the_cut_branches(family: LoadedFamily, bundles: dict[int, Path], tmp_path: Path) -> None:
    whole, cut = load_manifest(bundles[40]), load_manifest(bundles[5])
    save_family(family, tmp_path / "whole")
    save_family(family.at_most(5), tmp_path / "cut")
    for manifest, folder in ((whole, "whole"), (cut, "cut")):
        hashes = [sha256_file(branch_path(tmp_path / folder, g)) for g in (1, 2)]
        assert manifest.hashes.branches == (*hashes, "")
    assert whole.hashes.base == cut.hashes.base
    assert whole.family_fingerprint != cut.family_fingerprint


def test_the_command_cuts_to_a_rank_and_refuses_one_that_is_too_large(
    family: LoadedFamily,
    tiny_base_dir: Path,
    tiny_family: LoadedFamily,
    bundles: dict[int, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_family(family, tmp_path / "low")
    save_family(tiny_family, tmp_path / "blocks")

    def command(folder: str, rank: int) -> None:
        given = (
            f"{tmp_path / folder} --base {tiny_base_dir} --out {tmp_path / 'b'} --precision f32 --json --rank {rank}"
        )
        monkeypatch.setattr("sys.argv", ["export-family", *given.split(), "--rank", str(rank)])
        cli.main()

    command("low", 5)
    found = json.loads(capsys.readouterr().out)
    assert found["export_fingerprint"] == load_manifest(bundles[5]).export_fingerprint
    for folder, rank, told in (
        ("low", 41, "rank 41: more than the family can be cut to; its low-rank branches have 1..40"),
        ("blocks", 5, "rank 5: more than the family can be cut to; it has no low-rank branch, so give no rank"),
        ("low", 0, "expected a positive whole number"),
    ):
        with pytest.raises(SystemExit) as stop:
            command(folder, rank)
        assert stop.value.code == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
