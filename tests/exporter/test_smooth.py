"""Blocks in whole numbers are evened out first, without a bit of difference to what they compute."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from exporter.bundle import export
from exporter.calibrate import Calibration, on_grids
from exporter.dequantize import stored_matrices
from exporter.errors import ExportError
from exporter.integer import whole
from exporter.samples import LENGTH, TEXTS, first_id, own_text
from exporter.smooth import divide, divisors, edges_of, integer_blocks, integer_layers, smoothed
from family.manifest import load_manifest
from tests.exporter.test_calibrate import PROJECTIONS
from tests.tiny import TEXT, new_family
from tests.tiny import tiny_family as make_tiny_family
from training.base import load_base
from training.errors import BaseModelError
from training.loaded import LoadedFamily

MIXED = {1: "int4", 2: "int8", 3: "f32"}
MIXED_TEXT = "device=int4,edge=int8,cloud=f32"
INT8 = dict.fromkeys((1, 2, 3), "int8")


def random_ids(seed: int, n: int = 4, width: int = 64) -> Tensor:
    return torch.randint(512, (n, width), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def uneven(tiny_base_dir: Path) -> LoadedFamily:
    """The tiny family with a few inputs of every block 32 times as large, and their weights as much smaller."""
    family = make_tiny_family(load_base(str(tiny_base_dir)))
    generator = torch.Generator().manual_seed(3)
    for block in integer_blocks(family, INT8):
        for edge in edges_of(block):
            width = len(edge.maker.weight)
            by = torch.ones(width)
            by[torch.randperm(width, generator=generator)[: width // 32]] = 1 / 32
            divide(edge, by)
    return family


@pytest.fixture(scope="module")
def even(uneven: LoadedFamily) -> LoadedFamily:
    return smoothed(uneven, INT8, random_ids(0))


def test_what_the_family_computes_stays_the_same_to_the_bit(uneven: LoadedFamily, even: LoadedFamily) -> None:
    ids = random_ids(1)
    for family in (uneven, even):
        for parameter in family.model.parameters():
            assert parameter.isfinite().all()
    with torch.no_grad():
        before, after = uneven.model.forward_exits(ids), even.model.forward_exits(ids)
    assert all(torch.equal(before[g], after[g]) for g in (1, 2, 3))


def test_it_divides_where_values_are_made_and_multiplies_where_they_are_read(
    uneven: LoadedFamily, even: LoadedFamily
) -> None:
    old, new = integer_blocks(uneven, INT8), integer_blocks(even, INT8)
    assert len(old) == 6 + 2
    for a, b in zip(old, new, strict=True):
        changed = {name for name, value in a.state_dict().items() if not torch.equal(value, b.state_dict()[name])}
        assert changed == {f"{n}.weight" for n in ("input_layernorm", "post_attention_layernorm")} | {
            f"{'self_attn' if p[0] in 'qkv' else 'mlp'}.{p}.weight" for p in PROJECTIONS if p != "o_proj"
        }
        ratio = a.input_layernorm.weight / b.input_layernorm.weight  # type: ignore[union-attr,operator]
        assert torch.equal(ratio.log2(), ratio.log2().round())
        assert torch.equal(b.self_attn.k_proj.weight, a.self_attn.k_proj.weight * ratio)  # type: ignore[union-attr,operator]


def test_blocks_in_whole_numbers_come_closer(uneven: LoadedFamily, even: LoadedFamily) -> None:
    """Their inputs and their weights rounded as `exporter.integer` does."""
    ids = random_ids(2)
    with torch.no_grad():
        exact = uneven.model.forward_exits(ids)
    plain, evened = (error(in_whole_numbers(family, ids), exact) for family in (uneven, even))
    assert evened < 0.5 * plain


def in_whole_numbers(family: LoadedFamily, ids: Tensor) -> dict[int, Tensor]:
    """The exits' rows with products as in the graphs."""
    matrices = [m for b in integer_blocks(family, INT8) for m in b.modules() if isinstance(m, torch.nn.Linear)]
    exact = [matrix.weight for matrix in matrices]

    def rounded(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        largest = inputs[0].abs().amax(-1, keepdim=True)
        return ((inputs[0] / largest * 127).round() * (largest / 127),)

    hooks = [matrix.register_forward_pre_hook(rounded) for matrix in matrices]
    for matrix in matrices:
        stored = torch.from_numpy(whole(matrix.weight.detach().numpy()).matrix())
        matrix.weight = torch.nn.Parameter(stored, requires_grad=False)
    try:
        with torch.no_grad():
            return family.model.forward_exits(ids)
    finally:
        for hook in hooks:
            hook.remove()
        for matrix, weight in zip(matrices, exact, strict=True):
            matrix.weight = weight


def error(found: dict[int, Tensor], exact: dict[int, Tensor]) -> float:
    return sum(float((found[g] - exact[g]).norm() / exact[g].norm()) for g in exact)


def test_other_layers_and_norms_are_the_same_tensors(tiny_family: LoadedFamily) -> None:
    found = smoothed(tiny_family, MIXED, random_ids(0))
    old, new = (dict(f.base.model.named_parameters()) for f in (tiny_family, found))
    changed = {name for name in old if new[name] is not old[name]}
    assert changed and {name.split(".")[2] for name in changed} == {"2", "3"}
    old, new = (dict(f.model.branches.named_parameters()) for f in (tiny_family, found))
    changed = {name for name in old if new[name] is not old[name]}
    assert {name.split(".")[0] for name in changed} == {"1", "2"}
    assert not any("o_proj" in name or "norm" in name.split(".")[1] for name in changed)
    assert found.base.weights_sha256 == tiny_family.base.weights_sha256


def test_blocks_in_whole_numbers_are_those_of_int8_and_all_quantized_branches(tiny_family: LoadedFamily) -> None:
    assert integer_layers(tiny_family.spec, MIXED) == [2, 3]
    assert len(integer_blocks(tiny_family, MIXED)) == 2 + 2
    assert len(integer_blocks(tiny_family, dict.fromkeys((1, 2, 3), "int4"))) == 2
    assert not integer_blocks(tiny_family, dict.fromkeys((1, 2, 3), "f32"))


def test_values_that_never_come_are_left_as_they_are(tiny_family: LoadedFamily) -> None:
    (edge, *_) = edges_of(integer_blocks(tiny_family, INT8)[0])
    largest = torch.ones(64)
    largest[:8] = 0
    found = divisors(edge, largest)
    assert (found[:8] == 1).all() and found.isfinite().all() and (found > 0).all()
    with pytest.raises(ExportError, match="are not numbers; give a base whose weights are"):
        divisors(edge, torch.full((64,), float("nan")))


def test_a_base_writes_the_same_text_again(tiny_family: LoadedFamily) -> None:
    ids = own_text(tiny_family)
    assert ids.shape == (TEXTS, LENGTH) and (ids[:, 0] == first_id(tiny_family)).all()
    assert torch.equal(ids, own_text(tiny_family))
    assert len(set(map(tuple, ids.tolist()))) == TEXTS and 0 <= int(ids.min()) <= int(ids.max()) < 512


def test_a_base_that_writes_no_text_is_refused(tiny_base_dir: Path, tiny_family: LoadedFamily) -> None:
    base = load_base(str(tiny_base_dir))
    base.model.get_parameter("model.layers.1.mlp.down_proj.weight")[0, 0] = float("nan")
    with pytest.raises(BaseModelError, match="logits are not numbers; give a base whose weights are"):
        own_text(new_family(tiny_family.spec, base))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(TEXT * 8, encoding="utf-8")
    return Calibration(path, 1024)


def test_a_mixed_bundle_is_smoothed_in_eight_bits_and_calibrated_in_four(
    tiny_family: LoadedFamily, text: Calibration, tmp_path: Path
) -> None:
    export(tiny_family, tmp_path / "bundle", MIXED_TEXT, calibration=text)
    spec, state = tiny_family.spec, tiny_family.base.model.state_dict()
    four, eight, none = (stored_matrices(tmp_path / "bundle" / f"segment-{g}.onnx", spec) for g in (1, 2, 3))
    assert all(on_grids(torch.from_numpy(matrix)) for name, matrix in four.items() if "embed" not in name)
    assert len(eight) == 2 * 7 and not none
    name = "model.layers.2.self_attn.o_proj.weight"
    assert np.array_equal(eight[name], whole(state[name].numpy()).matrix())
    name = "model.layers.2.mlp.down_proj.weight"
    columns = np.linalg.norm(eight[name], axis=0) / np.linalg.norm(state[name].numpy(), axis=0)
    assert np.abs(np.log2(columns) - np.log2(columns).round()).max() < 0.1
    assert np.ptp(np.log2(columns).round()) >= 1
    parity = load_manifest(tmp_path / "bundle").parity
    assert parity["segment-3"].f32_error < 1e-5 and parity["segment-2"].f32_error < 0.06


def test_eight_bits_are_fitted_to_a_text_that_is_given(
    tiny_family: LoadedFamily, text: Calibration, tiny_bundle_int8: Path, tmp_path: Path
) -> None:
    given = export(tiny_family, tmp_path / "bundle", "int8", calibration=text)
    own = load_manifest(tiny_bundle_int8)
    assert given.export_fingerprint != own.export_fingerprint
    assert given.family_fingerprint == own.family_fingerprint
