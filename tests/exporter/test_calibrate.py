"""Matrices that lie on no 4-bit grid are put onto one that suits a text; others are left as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.blocks import digits, four_bits
from exporter.bundle import export
from exporter.calibrate import Calibration, calibrated, four_bit_layers, inverse_factor, on_grid, on_grids, windows_of
from exporter.dequantize import stored_matrices
from exporter.errors import ExportError
from family.manifest import load_manifest
from tests.exporter.test_quantize import q4_1
from tests.tiny import TEXT, new_family
from training.base import load_base
from training.checkpoint import open_family, save_trained
from training.errors import DataError
from training.loaded import LoadedFamily

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """Text that is not that of `exporter.parity`."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(TEXT * 8, encoding="utf-8")
    return Calibration(path, 4096)


@pytest.fixture(scope="module")
def found(tiny_family: LoadedFamily, text: Calibration) -> LoadedFamily:
    """The tiny family with the layers of its first two segments calibrated."""
    windows = windows_of(text, tiny_family.base.tokenizer, tiny_family.spec.context)
    return calibrated(tiny_family, range(4), windows)


def rounded(matrix: torch.Tensor) -> torch.Tensor:
    """What `exporter.blocks` makes of a matrix that lies on no grid."""
    return torch.from_numpy(four_bits(matrix.numpy()).matrix())


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_what_it_finds_is_kept_to_the_bit(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, x = torch.randn(48, 96, generator=generator) * size, torch.randn(500, 96, generator=generator)
    matrix[3, :32], matrix[4, 32:64] = 0, size / 4
    found = on_grid(matrix, x.T @ x).contiguous()
    blocks = four_bits(found.numpy())
    assert on_grids(found) and not on_grids(matrix)
    assert np.array_equal(blocks.matrix(), found.numpy())
    assert blocks.offsets is not None
    assert len(digits(blocks.offsets)) <= len(digits(four_bits(q4_1(48, 96)).offsets))  # type: ignore[arg-type]


def test_a_grid_is_found_again_after_a_small_change() -> None:
    generator = torch.Generator().manual_seed(4)
    matrix = torch.from_numpy(q4_1(64, 128, spread=0.3))
    change = torch.randn(64, 4, generator=generator) @ torch.randn(4, 128, generator=generator)
    changed = matrix + change * (0.02 * matrix.norm() / change.norm())
    again = on_grid(changed, torch.eye(128))
    assert (again - matrix).norm() < 0.35 * (rounded(changed) - matrix).norm()


def test_products_with_inputs_that_go_together_are_closer_than_rounded_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2000, 16, generator=generator) @ torch.randn(16, 128, generator=generator)
    x += 0.1 * torch.randn(x.shape, generator=generator)
    matrix = torch.randn(64, 128, generator=generator)
    errors = [(x @ (m - matrix).T).square().mean() for m in (on_grid(matrix, x.T @ x), rounded(matrix))]
    assert errors[0] < 0.15 * errors[1]


def test_an_input_that_never_comes_does_no_harm() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix, x = torch.randn(8, 64, generator=generator), torch.randn(200, 64, generator=generator)
    x[:, 10:40] = 0
    assert on_grid(matrix, x.T @ x).isfinite().all()
    assert on_grid(matrix, torch.zeros(64, 64)).isfinite().all()


def test_the_factor_is_that_of_the_inverse() -> None:
    x = torch.randn(300, 32, generator=torch.Generator().manual_seed(3))
    factor = inverse_factor(x.T @ x)
    assert torch.equal(factor, factor.triu())
    damped = x.T @ x + 0.01 * (x.T @ x).diagonal().mean() * torch.eye(32)
    assert torch.allclose(factor.T @ factor @ damped, torch.eye(32), atol=1e-4)


def test_it_changes_the_layers_that_it_is_told_and_no_others(tiny_family: LoadedFamily, found: LoadedFamily) -> None:
    old, new = tiny_family.base.model.state_dict(), found.base.model.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert len(changed) == 4 * len(PROJECTIONS)
    assert all(name.split(".")[2] in "0123" and name.split(".")[-2] in PROJECTIONS for name in changed)
    assert all(on_grids(new[name]) for name in changed)
    branches, shared = (dict(f.model.branches.named_parameters()) for f in (tiny_family, found))
    assert all(shared[name] is parameter for name, parameter in branches.items())
    assert found.base.weights_sha256 == tiny_family.base.weights_sha256


def test_what_lies_on_grids_already_is_left_as_it_is(found: LoadedFamily, text: Calibration) -> None:
    windows = windows_of(text, found.base.tokenizer, found.spec.context)
    old, new = (f.base.model.state_dict() for f in (found, calibrated(found, range(4), windows)))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_rows_of_other_ids_are_closer_than_with_rounded_weights(tiny_family: LoadedFamily) -> None:
    generator = torch.Generator().manual_seed(5)
    ids, others = (torch.randint(tiny_family.spec.vocab_size, (n, 256), generator=generator) for n in (16, 4))
    nearest = calibrated(tiny_family, range(4), ids)
    for name, parameter in nearest.base.model.named_parameters():
        if name.split(".")[-2] in PROJECTIONS and name.split(".")[2] in "0123":
            parameter.copy_(rounded(tiny_family.base.model.get_parameter(name)))
    exact, fitted, plain = (
        f.model.states(others)[0][2] for f in (tiny_family, calibrated(tiny_family, range(4), ids), nearest)
    )
    assert (fitted - exact).norm() < 0.95 * (plain - exact).norm()


def test_a_bundle_holds_the_calibrated_weights_under_the_familys_name(
    tiny_family: LoadedFamily, text: Calibration, found: LoadedFamily, tmp_path: Path, tiny_bundle_int4: Path
) -> None:
    out, precision = tmp_path / "bundle", "device=int4,edge=int4,cloud=f32"
    export(tiny_family, out, precision, calibration=text)
    manifest, state = load_manifest(out), found.base.model.state_dict()
    for g in (1, 2):
        for name, matrix in stored_matrices(out / f"segment-{g}.onnx", tiny_family.spec).items():
            if "embed" not in name:
                assert np.array_equal(matrix, state[name].numpy()), name
    assert manifest.parity["segment-2"].f32_error > 10 * manifest.parity["segment-3"].f32_error
    assert manifest.family_fingerprint == load_manifest(tiny_bundle_int4).family_fingerprint


def test_a_trunk_that_was_trained_with_its_exits_is_calibrated(
    tiny_family: LoadedFamily, text: Calibration, tmp_path: Path
) -> None:
    model, tokenizer = tiny_family.model, tiny_family.base.tokenizer
    save_trained(model.config, model.state_dict(), tiny_family.spec, "full", tokenizer, tmp_path / "family")
    manifest = export(open_family(tmp_path / "family"), tmp_path / "bundle", "int4", calibration=text)
    assert manifest.hashes.base == tiny_family.base.weights_sha256
    for name, matrix in stored_matrices(tmp_path / "bundle" / "segment-1.onnx", manifest.spec).items():
        assert "embed" in name or on_grids(torch.from_numpy(matrix)), name


def test_a_mistake_is_told(tiny_family: LoadedFamily, text: Calibration, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(ExportError, match="none are; leave --calibrate out, or give a tier int4 or int8"):
        export(tiny_family, out, "f32", calibration=text)
    with pytest.raises(ExportError, match="8 tokens to calibrate on, fewer than one window of 256; give a longer text"):
        export(tiny_family, out, "int4", calibration=Calibration(text.text, 8))
    with pytest.raises(DataError, match="nowhere: no such file"):
        export(tiny_family, out, "int4", calibration=Calibration(tmp_path / "nowhere", 8))
    assert not out.exists()


def test_four_bits_of_some_tiers_are_their_layers(tiny_family: LoadedFamily) -> None:
    assert four_bit_layers(tiny_family.spec, {1: "int4", 2: "f32", 3: "int4"}) == {0, 1, 4, 5}
    assert not four_bit_layers(tiny_family.spec, {1: "int8", 2: "f32", 3: "int8"})


def test_rows_that_are_not_numbers_are_refused(
    text: Calibration, tiny_base_dir: Path, tiny_family: LoadedFamily
) -> None:
    base = load_base(str(tiny_base_dir))
    base.model.get_parameter("model.layers.1.mlp.down_proj.weight")[0, 0] = float("nan")
    broken = new_family(tiny_family.spec, base)
    windows = windows_of(text, base.tokenizer, broken.spec.context)
    with pytest.raises(ExportError, match=r"layer 2, self_attn\.q_proj: its inputs on the calibration text are not"):
        calibrated(broken, range(4), windows)
