"""Every graph equals PyTorch's sub-model: to 1e-4 of the range at f32, and roughly at 4 bits."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.parity import F32_BOUND, POSITIONS, compare, reference
from exporter.quality import bundle_logits
from family.manifest import load_manifest
from training.loaded import LoadedFamily


def test_relayed_logits_are_the_sub_models(tiny_family: LoadedFamily, tiny_bundle: Path) -> None:
    ids = np.random.default_rng(5).integers(0, 512, 100)
    manifest = load_manifest(tiny_bundle)
    found = bundle_logits(tiny_bundle, manifest.graphs, manifest.spec)(ids)
    for g in (1, 2, 3):
        with torch.no_grad():
            expected = tiny_family.submodel(g)(torch.from_numpy(ids)[None]).logits[0].numpy()
        assert compare(found[g], expected)[0] < F32_BOUND
        assert np.array_equal(found[g].argmax(1), expected.argmax(1))


def test_the_reference_has_enough_rows_of_real_text(tiny_family: LoadedFamily) -> None:
    ref = reference(tiny_family)
    assert len(ref.ids) == POSITIONS == len(ref.rows[3]) == len(ref.logits[1])
    assert len(set(ref.ids.tolist())) > POSITIONS // 4


def test_errors_are_relative_to_each_row() -> None:
    expected = np.array([[1000.0, -1000.0, 0.0], [1.0, -1.0, 0.0]], np.float32)
    small = np.array([[0, 0, 0], [0.5, 0, 0]], np.float32)
    max_error, rms_error = compare(expected + small, expected)
    assert max_error == pytest.approx(0.25)
    assert rms_error == pytest.approx(np.sqrt((0.25 / 2) / 2), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_infinitely_wrong(bad: float) -> None:
    expected = np.ones((2, 3), np.float32)
    assert compare(np.full((2, 3), bad, np.float32), expected) == (float("inf"), float("inf"))
    assert compare(np.ones((1, 3), np.float32), expected)[0] == float("inf")
