import numpy as np
import pytest

from training.evaluate import Marks
from training.repeats import ends_in_loop, repeats
from training.scores import Coverage, coverage, reading_scores

RNG = np.random.default_rng(0)


def by_hand(confidence: np.ndarray, differs: np.ndarray, most: float) -> float:
    """The definition, word for word: every threshold is tried."""
    shares = [0.0]
    for threshold in confidence:
        decided = confidence >= threshold
        if (decided & differs).sum() <= most * len(confidence) + 1e-9:
            shares.append(float(decided.mean()))
    return max(shares)


@pytest.mark.parametrize("most", [0.0, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("levels", [3, 40, 10**9])
def test_coverage_is_the_best_of_all_thresholds(most: float, levels: int) -> None:
    for n in (1, 7, 400):
        confidence = np.floor(RNG.random(n) * levels) / levels
        differs = RNG.random(n) > confidence
        found = coverage(confidence, differs, most)
        assert found.share == pytest.approx(by_hand(confidence, differs, most))
        if found.threshold is not None:
            assert (confidence >= found.threshold).mean() == pytest.approx(found.share)


def test_disagreement_is_counted_over_all_tokens_and_not_over_the_decided_ones() -> None:
    confidence = np.linspace(1, 0.01, 100)
    differs = np.arange(100) % 2 == 0  # half of the decided differ, wherever the threshold is
    assert coverage(confidence, differs, 0.05).share == 0.10
    assert coverage(confidence, differs, 0.10).share == 0.20


def test_tokens_of_equal_confidence_are_decided_all_or_not_at_all() -> None:
    confidence = np.array([0.9, 0.5, 0.5, 0.5])
    differs = np.array([False, False, False, True])
    assert coverage(confidence, differs, 0.0) == Coverage(0.0, 0.25, 0.9)
    assert coverage(confidence, differs, 0.25).share == 1


def test_an_exit_whose_surest_token_differs_may_decide_nothing() -> None:
    found = coverage(np.array([0.9, 0.1]), np.array([True, False]), 0.0)
    assert (found.share, found.threshold) == (0.0, None)


def test_the_deepest_exit_is_the_reference_and_covers_everything() -> None:
    def marks(top: list[int]) -> Marks:
        return Marks(np.full(4, 2.0), np.array(top), np.array([0.9, 0.8, 0.7, 0.6]))

    found = reading_scores({(1, 8): marks([1, 2, 3, 0]), (1, 16): marks([1, 2, 3, 9]), (2, None): marks([1, 2, 3, 4])})
    assert [(s.exit, s.rank, s.agreement) for s in found] == [(1, 8, 0.75), (1, 16, 0.75), (2, None, 1.0)]
    assert [c.share for c in found[0].coverage] == [0.75, 0.75]
    assert [c.share for c in found[2].coverage] == [1.0, 1.0]
    assert found[0].perplexity == pytest.approx(np.exp(2))


def test_a_repeat_is_a_token_that_completes_a_4_gram_seen_before() -> None:
    assert repeats([1, 2, 3, 4, 5, 1, 2, 3, 4, 6]).nonzero()[0].tolist() == [8]
    assert repeats([7] * 6).nonzero()[0].tolist() == [4, 5]
    assert not repeats([1, 2]).any() and len(repeats([])) == 0


def test_a_loop_goes_round_three_times_over_sixteen_tokens_at_the_end() -> None:
    verse = list(range(10))
    assert ends_in_loop([99, *verse * 3])
    assert not ends_in_loop([99, *verse * 2, *verse[:9]])
    assert not ends_in_loop([*verse * 3, 99])
    assert ends_in_loop([5] * 16) and not ends_in_loop([5] * 15)
    assert ends_in_loop([0, 1, *[2, 3] * 8]) and not ends_in_loop([])
    assert not ends_in_loop(list(range(128)))
