import numpy as np
import pytest

from scaling.plan.cost import Number
from scaling.plan.simulate import simulate
from scaling.plan.traffic import Requests

FIXED, ROW, TOKEN = 1.0, 0.01, 0.1


def forward(rows: Number, context: Number, wanted: Number, sessions: Number) -> Number:
    return FIXED + ROW * rows + TOKEN * wanted


def requests(*rows: tuple[float, int, int]) -> Requests:
    """Arrival, prompt, output, with one text long before them and one long after, at which the play ends."""
    table = np.array([(0.0, 1, 1), *((at + 1000, p, o) for at, p, o in rows), (1e5, 1, 1)])
    return Requests(table[:, 0], table[:, 1].astype(np.int64), table[:, 2].astype(np.int64))


def test_a_text_alone_takes_its_own_forwards() -> None:
    played = simulate(forward, requests((0, 600, 4), (50, 10, 2)))
    first = (FIXED + 512 * ROW) + (FIXED + 88 * ROW + TOKEN)
    assert played.ttft_s[1:] == pytest.approx([first, FIXED + 10 * ROW + TOKEN])
    assert played.tpot_s == pytest.approx([FIXED + ROW + TOKEN] * 4)


def test_sessions_share_forwards_and_a_prompt_adds_the_time_of_a_token_at_most() -> None:
    played = simulate(forward, requests((0, 10, 50), (0, 10, 50), (10, 600, 2)))
    two = FIXED + 2 * ROW + 2 * TOKEN
    assert played.tpot_s.min() == pytest.approx(FIXED + ROW + TOKEN)
    assert played.tpot_s.max() <= 2 * two + TOKEN + 3 * ROW
    assert played.ttft_s.max() > (600 / (two / ROW)) * 2 * two * 0.9


def test_those_who_are_away_do_not_wait_for_each_other() -> None:
    played = simulate(forward, requests((0, 10, 40)), away_s=5.0)
    assert played.tpot_s == pytest.approx([FIXED + ROW + TOKEN] * 39)
    assert played.busy < 0.01


def test_without_memory_a_text_waits_for_the_one_before_it() -> None:
    texts = requests((0, 10, 20), (0, 10, 20))
    together, apart = simulate(forward, texts), simulate(forward, texts, most_sessions=1)
    assert together.ttft_s.max() < 3
    assert apart.ttft_s.max() > 19 * (FIXED + ROW + TOKEN)


def test_the_same_seed_plays_the_same() -> None:
    texts = requests((0, 10, 20), (1, 30, 20), (2, 10, 30))
    a, b, c = (simulate(forward, texts, away_s=0.5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(a.tpot_s, b.tpot_s) and not np.array_equal(a.tpot_s, c.tpot_s)
