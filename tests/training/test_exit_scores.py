import numpy as np
import pytest
import torch
from torch.nn import functional

from training.errors import DataError
from training.evaluate import evaluate, family_logits, mark, windows
from training.loaded import LoadedFamily

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_every_position_is_scored_once_whatever_the_stride(stride: int) -> None:
    ids = np.arange(41)
    scored = [int(p) for chunk, part in windows(ids, 8, stride) for p in chunk[1:][part]]
    assert scored == list(range(1, len(scored) + 1))


def test_scores_equal_those_of_torch(family: LoadedFamily) -> None:
    ids = RNG.integers(0, family.spec.vocab_size, 65)
    found = evaluate(family_logits(family.model), ids, 32, 32)
    assert (found.tokens, found.window, found.stride) == (64, 32, 32)
    inputs, targets = torch.from_numpy(ids[:64]).view(2, 32), torch.from_numpy(ids[1:])
    with torch.no_grad():
        logits = {g: family.submodel(g)(inputs).logits.flatten(0, 1) for g in (1, 2, 3)}
    for score in found.exits:
        assert score.cross_entropy == pytest.approx(functional.cross_entropy(logits[score.exit], targets).item(), 1e-5)
        assert score.agreement == (logits[score.exit].argmax(-1) == logits[3].argmax(-1)).float().mean().item()
    assert found.exits[-1].agreement == 1


def test_cross_entropy_is_stable_for_large_logits() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert mark(logits, np.array([1])).nats == pytest.approx([1e4])


def test_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(DataError, match="32 tokens, fewer than one window of 32"):
        evaluate(lambda ids: {1: np.zeros((len(ids), 4), np.float32)}, np.zeros(32, np.int64), 32, 32)


def test_a_stride_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 1\.\.8"):
        list(windows(np.arange(20), 8, 9))
