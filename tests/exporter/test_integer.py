"""Products in whole numbers are exact: what numpy's integers give, however many rows a call has."""

import platform
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from exporter.blocks import F32
from exporter.dequantize import stored_matrices
from exporter.graphs import Piece, f32_tensor
from exporter.integer import LARGEST, integer_products, stored, tensors, whole
from exporter.onnxfile import IR_VERSION, OPSETS
from exporter.quantize import quantize
from exporter.weights import write_weights
from family.manifest import load_manifest
from tests.exporter.helpers import Bundle, chunks, wandering

WIDTH, OUT = 160, 96
QUANTIZING = ["Abs", "ReduceMax", "Div", "QuantizeLinear"]


def matrix(seed: int, out: int = OUT, width: int = WIDTH) -> F32:
    return np.random.default_rng(seed).standard_normal((out, width)).astype(np.float32)


def cpu_flags() -> str:
    """What Linux says that an x86 CPU can; `vnni` is in it for others, whose products of bytes are whole."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "vnni"
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8") if info.is_file() else ""


def piece(*matrices: F32) -> Piece:
    """The sum of the products of x with some matrices."""
    names = [f"w{i}" for i in range(len(matrices))]
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_out"], name=name) for name in names]
    nodes.append(helper.make_node("Sum", [f"{name}_out" for name in names], ["y"]))
    return Piece(nodes, {name: f32_tensor(m.T) for name, m in zip(names, matrices, strict=True)}, "y", 0)


def session(piece: Piece, tmp_path: Path, threads: int = 2) -> ort.InferenceSession:
    """A graph of rows `x` to rows `y`, opened as the exporter writes it."""
    ends = [helper.make_tensor_value_info(name, 1, [1, "q", None]) for name in ("x", "y")]
    graph = helper.make_graph(piece.nodes, "g", ends[:1], ends[1:], write_weights({"g": piece}, tmp_path)["g"])
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    path = tmp_path / "g.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets).SerializeToString())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def product(x: F32, w: F32) -> F32:
    """What the graph should give for rows x [q, in] and a matrix [out, in], in numpy's integers."""
    found, step = whole(w), np.float32(1 / 127)
    largest = np.abs(x).max(1, keepdims=True)
    q = np.rint(x / largest / step).astype(np.int64)
    assert np.abs(q).max() == 127
    expected: F32 = (q @ found.q.T.astype(np.int64)).astype(np.float32) * (step * found.scales) * largest
    return expected


@pytest.mark.parametrize("rows", [1, 2, 3, 64])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_a_product_is_that_of_whole_numbers_to_the_bit(rows: int, size: float, tmp_path: Path) -> None:
    w = matrix(0)
    x = matrix(1, rows) * np.float32(size) * np.exp(matrix(2, rows, 1))
    (found,) = session(integer_products(piece(w)), tmp_path).run(None, {"x": x[None]})
    assert np.array_equal(found[0], product(x, w))


@pytest.mark.skipif("vnni" not in cpu_flags(), reason="an x86 CPU without VNNI saturates in 16 bits")
def test_the_largest_numbers_do_not_saturate(tmp_path: Path) -> None:
    x, w = np.sign(matrix(3, 8)), np.sign(matrix(4))
    x[0], w[:4], w[4:8] = 1, 1, -1
    assert np.abs(whole(w).q).min() == LARGEST
    (found,) = session(integer_products(piece(w)), tmp_path).run(None, {"x": x[None]})
    assert np.array_equal(found[0], product(x, w))


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_together_are_rows_alone_to_the_bit(threads: int, tmp_path: Path) -> None:
    run = session(integer_products(piece(matrix(5), matrix(6))), tmp_path, threads)
    x = matrix(7, 200)[None]
    (together,) = run.run(None, {"x": x})
    for size in (1, 2, 3, 7, 63):
        parts = [run.run(None, {"x": x[:, i : i + size]})[0] for i in range(0, 200, size)]
        assert np.array_equal(np.concatenate(parts, 1), together), size


def test_x_is_rounded_once_for_all_that_read_it() -> None:
    nodes = integer_products(piece(matrix(0), matrix(1))).nodes
    products = ["MatMulIntegerToFloat", "Mul"]
    assert [node.op_type for node in nodes] == [*QUANTIZING, *products, *products, "Sum"]


def test_four_bits_are_no_whole_numbers_and_the_head_stays_in_blocks() -> None:
    head = helper.make_node("Gemm", ["y", "head"], ["logits"], transB=1)
    whole_piece = piece(matrix(0))
    weights = {**whole_piece.weights, "head": f32_tensor(matrix(1, 64, OUT))}
    both = Piece([*whole_piece.nodes, head], weights, "logits", 0)
    kinds = {bits: [node.op_type for node in quantize(both, bits).nodes] for bits in (4, 8)}
    assert kinds[4] == ["MatMulNBits", "Sum", "MatMulNBits"]
    assert kinds[8] == [*QUANTIZING, "MatMulIntegerToFloat", "Mul", "Sum", "MatMulNBits"]


def test_a_row_of_zeros_gives_zeros_and_no_row_gives_none(tmp_path: Path) -> None:
    run = session(integer_products(piece(matrix(0))), tmp_path)
    x = matrix(1, 3)[None]
    x[0, 1], x[0, 2] = 0, 1e-45
    (found,) = run.run(None, {"x": x})
    assert np.array_equal(found[0, 1], np.zeros(OUT)) and np.isfinite(found).all() and found[0, 0].all()
    assert run.run(None, {"x": x[:, :0]})[0].shape == (1, 0, OUT)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_with_an_infinite_number_gives_no_finite_one(rows: int, tmp_path: Path) -> None:
    run = session(integer_products(piece(matrix(0))), tmp_path)
    for bad in (np.inf, -np.inf):
        for place in range(WIDTH):
            x = matrix(place, rows)[None]
            x[0, -1, place] = bad
            (found,) = run.run(None, {"x": x})
            assert not np.isfinite(found[0, -1]).any() and np.isfinite(found[0, :-1]).all()
    (found,) = run.run(None, {"x": np.full((1, rows, WIDTH), np.nan, np.float32)})
    assert np.isnan(found).all()


def test_numbers_that_are_none_do_not_come_out_of_a_graph_as_numbers(tiny_bundle_int8: Path) -> None:
    bundle = Bundle(tiny_bundle_int8, np.arange(5))
    for graph in bundle.manifest.graphs:
        if graph.name == "segment-1":
            continue  # reads token ids
        for bad in (np.nan, np.inf, -np.inf):
            for place in (0, 7, 63):
                rows = bundle.given(graph).copy()
                rows[3, place] = bad
                assert not np.isfinite(bundle.runner(graph).run(rows, 0)[3]).all(), (graph.name, bad, place)


def test_weights_are_rounded_to_the_nearest_step_of_each_output() -> None:
    w = matrix(8) * np.exp(matrix(9, OUT, 1))
    w[5], w[6] = 0, 1e-30
    found = whole(w)
    step = np.abs(w).max(1, keepdims=True) / LARGEST
    assert (np.abs(found.matrix() - w) <= 0.5001 * step).all()
    assert np.abs(found.q).max() == LARGEST and not found.matrix()[5].any()
    again = stored("w", tensors("w", found))
    assert np.array_equal(again.matrix(), found.matrix())


def test_chunks_of_a_graph_change_no_bit(tiny_bundle_int8: Path) -> None:
    n = 40
    bundle = Bundle(tiny_bundle_int8, np.random.default_rng(0).integers(0, 512, n))
    for graph in bundle.manifest.graphs:
        expected, runner = bundle.one_shot(graph), bundle.runner(graph)
        for history in (chunks([1] * n, n), chunks([2] * n, n), chunks([3, 1, 7] * n, n), wandering(0, n)):
            assert np.array_equal(bundle.replay(runner, history), expected), graph.name


def test_every_matrix_is_read_back_in_eight_bits(tiny_bundle_int8: Path) -> None:
    spec = load_manifest(tiny_bundle_int8).spec
    names = {f"segment-{g}": 2 * 7 for g in (1, 2, 3)} | {"exit-1": 7 + 1, "exit-2": 7 + 1, "exit-3": 1}
    names["segment-1"] += 1  # the embedding
    for name, count in names.items():
        assert len(stored_matrices(tiny_bundle_int8 / f"{name}.onnx", spec)) == count, name
