"""Sampling: the distribution against PyTorch's softmax, the filters against Hugging Face's, and purity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chisquare
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from relay.errors import InvalidRequestError
from relay.sampling import F32, GREEDY, Penalties, Sampling, noise_bits, penalised, sample, survivors

DRAWS = 100_000
LEAST_P = 1e-3
"""Seeds are fixed, so a test either always passes or never; by chance alone one in a thousand would not."""
VOCAB = 40
LOGITS = np.random.default_rng(1).normal(0, 1.5, VOCAB).astype(np.float32)


def counts(logits: F32, sampling: Sampling, draws: int = DRAWS) -> np.ndarray:
    return np.bincount([sample(logits, sampling, position) for position in range(draws)], minlength=len(logits))


def warped(logits: F32, sampling: Sampling) -> torch.Tensor:
    """Logits after Hugging Face's filters: minus infinity where a token is filtered."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, torch.tensor(logits)[None])
    if sampling.top_k > 0:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p > 0:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return scores[0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, seed=3),
        Sampling(0.6, seed=4, index=2),
        Sampling(1.7, seed=2**64 - 1),
        Sampling(1.0, top_k=7, seed=5),
        Sampling(1.3, top_p=0.8, seed=6),
        Sampling(0.9, min_p=0.05, seed=7),
        Sampling(1.1, top_k=20, top_p=0.9, min_p=0.02, seed=8),
    ],
    ids=str,
)
def test_tokens_are_drawn_with_the_probabilities_of_pytorchs_softmax(sampling: Sampling) -> None:
    expected = torch.softmax(warped(LOGITS, sampling).double(), 0).numpy()
    observed = counts(LOGITS, sampling)
    possible = expected > 0
    assert observed[~possible].sum() == 0
    assert chisquare(observed[possible], expected[possible] * DRAWS).pvalue > LEAST_P


@pytest.mark.parametrize("other", ["position", "index", "seed"])
def test_draws_of_other_positions_samples_and_seeds_are_independent(other: str) -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    draws = 30_000
    moved = {"position": (9, 0, 1), "index": (9, 1, 0), "seed": (10, 0, 0)}[other]
    pairs = np.zeros((4, 4))
    for position in range(0, 2 * draws, 2):
        a = sample(logits, Sampling(1.0, seed=9), position)
        b = sample(logits, Sampling(1.0, seed=moved[0], index=moved[1]), position + moved[2])
        pairs[a, b] += 1
    expected = np.outer([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]) * draws
    assert chisquare(pairs.ravel(), expected.ravel()).pvalue > LEAST_P


@settings(max_examples=200, deadline=None)
@given(
    logits=arrays.arrays(np.float32, st.integers(2, 60), elements=st.floats(-30, 30, width=32), unique=True),
    temperature=st.floats(0.1, 5),
    top_k=st.integers(0, 70),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 1),
)
def test_filters_keep_what_hugging_faces_keep(
    logits: F32, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = Sampling(temperature, top_k, top_p, min_p)
    scaled = (logits - logits.max()) * np.float32(1 / temperature)
    ours = set(survivors(scaled, sampling).tolist())
    theirs = set(torch.isfinite(warped(logits, sampling)).nonzero().ravel().tolist())
    # Where a token lies on the edge to rounding, either answer is right.
    for token in ours ^ theirs:
        nudged = [Sampling(temperature, top_k, min(1, top_p * f), min(1, min_p / f)) for f in (1 - 1e-4, 1 + 1e-4)]
        kept = {token in survivors(scaled, near).tolist() for near in nudged}
        tied = np.isclose(np.delete(scaled, token), scaled[token], atol=1e-4).any()
        assert kept == {True, False} or tied


def test_the_most_probable_token_survives_every_filter() -> None:
    strictest = Sampling(1.0, top_k=1, top_p=1e-9, min_p=1.0)
    assert survivors(LOGITS - LOGITS.max(), strictest).tolist() == [int(LOGITS.argmax())]
    assert {sample(LOGITS, strictest, position) for position in range(50)} == {int(LOGITS.argmax())}


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**31), temperature=st.floats(0.05, 20))
def test_a_token_is_the_argmax_of_its_logit_and_its_own_noise(seed: int, position: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, 500).astype(np.float32)
    u = (noise_bits(seed, 0, position, 500).astype(np.float64) + 0.5) / 2**64
    gumbel = -np.log(-np.log1p(-np.minimum(u, 1 - 1e-16)))
    scores = logits.astype(np.float64) / temperature + gumbel
    drawn = sample(logits, Sampling(temperature, seed=seed), position)
    assert scores[drawn] >= scores.max() - 1e-4


def test_a_tokens_noise_does_not_depend_on_the_others() -> None:
    assert np.array_equal(noise_bits(1, 2, 3, 50), noise_bits(1, 2, 3, 5000)[:50])
    sampling = Sampling(1.0, seed=2)
    for position in range(200):
        drawn = sample(LOGITS, sampling, position)
        without = LOGITS.copy()
        without[(drawn + 1) % VOCAB] = -np.inf
        assert sample(without, sampling, position) == drawn


def test_no_number_of_a_positions_noise_comes_again_at_the_next() -> None:
    drawn = [noise_bits(7, 0, position, 1000) for position in range(20)]
    assert len(np.unique(np.concatenate(drawn))) == 20 * 1000


def test_zero_temperature_is_greedy_whatever_else_is_set() -> None:
    assert sample(LOGITS, Sampling(0.0, top_k=5, top_p=0.5, seed=3), 7) == sample(LOGITS, GREEDY, 0) == LOGITS.argmax()


def test_extreme_logits_and_temperatures_give_a_token() -> None:
    wide = np.array([3e38, -3e38, 0, 1e38], np.float32)
    for temperature in (5e-324, 1e-30, 1e-3, 1.0, 1e30, 1e308):
        assert 0 <= sample(wide, Sampling(temperature, seed=1), 1) < 4
    assert sample(np.array([-np.inf, 1.0, -np.inf], np.float32), Sampling(1.0), 0) == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"temperature": -0.1}, "temperature cannot be -0.1; give 0 \\(greedy\\) or more"),
        ({"temperature": float("nan")}, "temperature cannot be nan"),
        ({"temperature": float("inf")}, "temperature cannot be inf"),
        ({"top_k": -1}, "top_k cannot be -1"),
        ({"top_p": 0.0}, "top_p cannot be 0.0; give more than 0"),
        ({"top_p": 1.1}, "top_p cannot be 1.1"),
        ({"min_p": -0.1}, "min_p cannot be -0.1"),
        ({"seed": -1}, "seed cannot be -1; give a 64-bit number"),
        ({"seed": 2**64}, "seed cannot be"),
    ],
)
def test_values_that_make_no_sense_are_refused(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        Sampling(**bad)


@pytest.mark.parametrize(
    "bad", [{"repetition": 0.0}, {"repetition": 1e4}, {"presence": float("nan")}, {"frequency": float("inf")}]
)
def test_penalties_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match="_penalty cannot be"):
        Penalties(**bad)


ids = st.lists(st.integers(0, VOCAB - 1), max_size=20)


@given(prompt=ids, text=ids, repetition=st.floats(0.5, 3))
def test_the_repetition_penalty_is_hugging_faces(prompt: Sequence[int], text: Sequence[int], repetition: float) -> None:
    adjust = penalised(Penalties(repetition=repetition), prompt, text)
    seen = torch.tensor([[*prompt, *text]], dtype=torch.long)
    expected = RepetitionPenaltyLogitsProcessor(repetition)(seen, torch.tensor(LOGITS)[None])[0].numpy()
    got = LOGITS if adjust is None else adjust(LOGITS)
    assert np.allclose(got, expected, rtol=1e-6)


@given(prompt=ids, text=ids, presence=st.floats(-2, 2), frequency=st.floats(-2, 2))
def test_presence_and_frequency_count_the_text_only(
    prompt: Sequence[int], text: Sequence[int], presence: float, frequency: float
) -> None:
    before = LOGITS.copy()
    adjust = penalised(Penalties(presence=presence, frequency=frequency), prompt, text)
    got = LOGITS if adjust is None else adjust(LOGITS)
    expected = [x - presence * (i in text) - frequency * text.count(i) for i, x in enumerate(LOGITS.tolist())]
    assert np.allclose(got, expected, atol=1e-4)
    assert np.array_equal(LOGITS, before)
