"""4-bit weights are kept exactly, others rounded; tiers of different precision make one family."""

import asyncio
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from exporter import bundle as bundle_module
from exporter.blocks import BLOCK, F32, digits, eight_bits, four_bits, in_blocks, packed, unpacked, with_columns
from exporter.dequantize import stored_matrices
from exporter.errors import ExportError
from exporter.graphs import Piece, f32_tensor
from exporter.onnxfile import write_graphs
from exporter.quantize import quantize
from family.manifest import load_manifest
from family.spec import FamilySpec
from relay.policy import ExitSchedule, FixedExit, Policy
from tests.conftest import tiny_export
from tests.exporter.helpers import Bundle, chunks, wandering
from tests.relay.servers import chain, single, text
from tests.tiny import tiny_family as make_tiny_family
from tests.tiny import write_tiny_base
from training.base import load_base
from training.loaded import LoadedFamily

MIXED = "device=int4,edge=int8,cloud=f32"


def q4_1(out: int, width: int, seed: int = 0, spread: float = 1.0) -> F32:
    """A matrix as GGUF's Q4_1 stores one: d * q + m, d and m of 16 bits, each block of another size."""
    rng = np.random.default_rng(seed)
    shape = (out, width // BLOCK, 1)
    size = np.exp(spread * rng.standard_normal(shape)) / 50
    d = size.astype(np.float16).astype(np.float32)
    m = (-size * rng.uniform(-1, 16, shape)).astype(np.float16).astype(np.float32)
    q = rng.integers(0, 16, (out, width // BLOCK, BLOCK)).astype(np.float32)
    q[..., 0], q[..., 1] = 0, 15
    matrix: F32 = (d * q + m).reshape(out, width)
    return matrix


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> LoadedFamily:
    """A tiny family whose base was stored in 4 bits."""
    base = load_base(str(write_tiny_base(tmp_path_factory.mktemp("stored") / "base")))
    with torch.no_grad():
        for i, (name, parameter) in enumerate(base.model.named_parameters()):
            if "proj" in name and "layers.5." not in name:
                parameter.copy_(torch.from_numpy(q4_1(len(parameter), parameter.shape[1], i, 0.3)))
    return make_tiny_family(base)


@pytest.fixture(scope="module")
def bundles(family: LoadedFamily, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """That family at `int4` and mixed."""
    folder = tmp_path_factory.mktemp("quantized")
    return {p: tiny_export(family, folder / p.replace("=", "-"), p) for p in ("int4", MIXED)}


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_a_matrix_that_was_stored_in_four_bits_is_kept_to_the_bit(spread: float) -> None:
    matrix = q4_1(40, 96, spread=spread)
    blocks = four_bits(matrix)
    assert np.array_equal(blocks.matrix(), matrix)
    assert blocks.offsets is not None
    wide = with_columns(blocks, len(digits(blocks.offsets)) + 1).matrix()
    columns = wide[:, 96:].reshape(40, -1, BLOCK).sum(1)[:, :3]
    assert np.array_equal(wide[:, :96] + columns.repeat(BLOCK, 1), matrix)


def test_a_symmetric_grid_needs_no_offsets() -> None:
    rng = np.random.default_rng(1)
    d = (rng.random((8, 2, 1)) / 50).astype(np.float16).astype(np.float32)
    q = rng.integers(-8, 8, (8, 2, BLOCK)).astype(np.float32)
    q[..., 0], q[..., 1] = -8, 7
    blocks = four_bits((d * q).reshape(8, -1))
    assert blocks.zeros is None and blocks.offsets is None
    assert np.array_equal(blocks.matrix(), (d * q).reshape(8, -1))


def test_eight_bits_keep_a_matrix_that_was_stored_in_eight() -> None:
    rng = np.random.default_rng(2)
    d = (rng.random((8, 2, 1)) / 500).astype(np.float16).astype(np.float32)
    q = rng.integers(-127, 128, (8, 2, BLOCK)).astype(np.float32)
    q[..., 0] = 127
    matrix = (d * q).reshape(8, -1)
    assert np.array_equal(eight_bits(matrix).matrix(), matrix)


@pytest.mark.parametrize(("width", "size"), [(128, 64), (96, 32)])
def test_eight_bits_round_other_matrices_in_the_widest_blocks_that_fit(width: int, size: int) -> None:
    matrix = np.random.default_rng(5).standard_normal((8, width)).astype(np.float32)
    found = eight_bits(matrix)
    assert found.size == size
    assert np.abs(found.matrix() - matrix).max() <= np.abs(matrix).max() / 254 * 1.01


def test_weights_off_the_grid_are_rounded_and_the_blocks_beside_them_are_not() -> None:
    matrix = q4_1(4, 64)
    matrix[1, 3:40] += np.random.default_rng(3).standard_normal(37).astype(np.float32) / 100
    found = four_bits(matrix).matrix()
    assert np.array_equal(found[[0, 2, 3]], matrix[[0, 2, 3]])
    blocks = in_blocks(matrix)[1]
    step = (np.maximum(blocks.max(-1), 0) - np.minimum(blocks.min(-1), 0)) / 15
    assert (np.abs(in_blocks(found)[1] - blocks) <= 1.01 * step[:, None]).all()
    assert not np.array_equal(found[1], matrix[1])


@pytest.mark.parametrize("make", [four_bits, eight_bits])
def test_a_block_of_one_value_is_that_value(make: type) -> None:
    for value in (0.0, 0.25, -3.0):
        assert np.array_equal(make(np.full((2, 32), value, np.float32)).matrix(), np.full((2, 32), value))


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ExportError, match="48 inputs, and quantization needs a multiple of 32; export at --precision"):
        four_bits(np.zeros((2, 48), np.float32))


def test_odd_numbers_of_zero_points_are_packed_row_by_row() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(unpacked(packed(values, 4), 4)[:, :3], values)
    assert packed(values, 4).shape == (2, 2)


def test_more_digits_than_columns_is_a_mistake() -> None:
    blocks = four_bits(q4_1(4, 64))
    with pytest.raises(ValueError, match="digits in 1 columns"):
        with_columns(blocks, 1)


def test_the_sums_are_made_once_for_all_that_read_the_same() -> None:
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_out"], name=name) for name in ("gate", "up")]
    nodes.append(helper.make_node("Add", ["gate_out", "up_out"], ["y"]))
    weights = {name: f32_tensor(q4_1(8, 64, seed=i).T) for i, name in enumerate(("gate", "up"))}
    piece = quantize(Piece(nodes, weights, "y", 0), 4)
    assert [node.op_type for node in piece.nodes] == ["MatMul", "Concat", "MatMulNBits", "MatMulNBits", "Add"]


def test_the_stored_weights_of_the_trunk_are_the_bases(family: LoadedFamily, bundles: Mapping[str, Path]) -> None:
    state, exact, rounded = family.base.model.state_dict(), 0, 0
    for g in (1, 2, 3):
        for name, matrix in stored_matrices(bundles["int4"] / f"segment-{g}.onnx", family.spec).items():
            if "layers.5." in name or "embed" in name:
                rounded += not np.array_equal(matrix, state[name].numpy())
            else:
                exact += np.array_equal(matrix, state[name].numpy())
    assert (exact, rounded) == (5 * 7, 7 + 1)


def test_chunks_change_no_bit(bundles: Mapping[str, Path]) -> None:
    n = 40
    bundle = Bundle(bundles["int4"], np.random.default_rng(0).integers(0, 512, n))
    for graph in bundle.manifest.graphs:
        expected, runner = bundle.one_shot(graph), bundle.runner(graph)
        for history in (chunks(cycle([1]), n), chunks(cycle([2, 7, 1]), n), wandering(0, n)):
            assert np.array_equal(bundle.replay(runner, history), expected), graph.name


@pytest.mark.parametrize("policy", [FixedExit(3), ExitSchedule(5)], ids=str)
def test_tiers_of_different_precision_relay_what_one_process_gives(policy: Policy, bundles: Mapping[str, Path]) -> None:
    manifest = load_manifest(bundles[MIXED])
    assert manifest.precision == MIXED
    assert [g.precision for g in manifest.graphs] == 2 * ["int4", "int8", "f32"]

    async def scenario() -> None:
        async with chain(bundles[MIXED]) as nodes, single(bundles[MIXED]) as one:
            relayed, whole = [
                await text(client, list(range(3, 20)), policy=policy, max_tokens=24, logits=True, ignore_stop=True)
                for client in (nodes.device, one)
            ]
            assert [(t.id, t.exit) for t in relayed] == [(t.id, t.exit) for t in whole] and len(whole) == 24
            for a, b in zip(relayed, whole, strict=True):
                assert a.logits is not None and np.array_equal(a.logits, b.logits)  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_tiers_are_one_family(bundles: Mapping[str, Path]) -> None:
    one, other = (load_manifest(path) for path in bundles.values())
    assert one.family_fingerprint == other.family_fingerprint
    assert one.export_fingerprint != other.export_fingerprint


def test_a_lost_offset_is_found(family: LoadedFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(pieces: Mapping[str, Piece], spec: FamilySpec, folder: Path) -> None:
        write_graphs(pieces, spec, folder)
        content = (folder / "segment-2.data").read_bytes()
        tensor = pieces["segment-2"].weights["model.layers.3.mlp.down_proj.MatMul.weight_scales"]
        at = content.index(tensor.data)
        changed = np.frombuffer(tensor.data, np.float32).reshape(tensor.dims).copy()
        changed[:, -1] *= 2  # the highest digit of the offsets
        (folder / "segment-2.data").write_bytes(content[:at] + changed.tobytes() + content[at + changed.nbytes :])

    monkeypatch.setattr(bundle_module, "write_graphs", losing)
    with pytest.raises(ExportError, match=r"segment-2: model\.layers\.3\.mlp\.down_proj\.weight as stored .*"):
        tiny_export(family, tmp_path / "bundle", "int4")
    assert not list(tmp_path.iterdir())


def test_the_real_base_is_imported_without_loss(smollm_int4: Path) -> None:
    spec = load_manifest(smollm_int4).spec
    state = load_base().model.state_dict()
    found = {"lm_head.weight": stored_matrices(smollm_int4 / "exit-3.onnx", spec)["lm_head.weight"]}
    for g in (1, 2, 3):
        found |= stored_matrices(smollm_int4 / f"segment-{g}.onnx", spec)
    assert len(found) == 210 + 2
    for name, matrix in found.items():
        assert np.array_equal(matrix, state[name].numpy()), name
