"""The pure pieces on their own: cutting, logs, chain values, policies, decisions, the wire."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import chain
from relay.decide import decide, is_sure
from relay.errors import InternalError, InvalidRequestError
from relay.log import History, RowLog, pieces
from relay.messages import Question
from relay.policy import ConfidenceExit, ExitSchedule, FixedExit, Rule, target_exit
from relay.sampling import Sampling


@given(start=st.integers(0, 50), count=st.integers(0, 200), most=st.integers(1, 40), last=st.integers(0, 20))
def test_pieces_cover_everything_once_and_keep_the_last_together(start: int, count: int, most: int, last: int) -> None:
    last = min(last, count)
    end = start + count
    cut = list(pieces(start, end, most, last))
    assert [i for a, b in cut for i in range(a, b)] == list(range(start, end))
    assert all(0 < b - a <= max(most, last) for a, b in cut)
    assert not cut or cut[-1][1] - cut[-1][0] >= last


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 90), st.booleans()), max_size=20))
def test_a_row_log_is_a_list_of_rows_whose_first_ones_may_be_forgotten(steps: list[tuple[int, int, bool]]) -> None:
    log, model, first = RowLog(2), np.empty((0, 2), np.float32), 0
    rng = np.random.default_rng(0)
    for keep, fresh, forget in steps:
        log.truncate(keep)
        first = min(first, keep, len(model))
        if forget:
            log.forget()
            first = min(keep, len(model))
        rows = rng.standard_normal((fresh, 2), dtype=np.float32)
        log.append(rows)
        model = np.concatenate([model[:keep], rows])
        assert len(log) == len(model)
        assert np.array_equal(log.rows(first, len(log)), model[first:])


@given(shared=st.integers(0, 300), mine=st.integers(0, 300), theirs=st.integers(0, 300))
def test_marks_find_a_common_position_at_most_twice_as_far_back_as_the_last(
    shared: int, mine: int, theirs: int
) -> None:
    genesis = chain.genesis("x")
    start = chain.extend(genesis, [1] * shared, 1)
    tip = start[-1] if start else genesis
    a, b = History(genesis), History(genesis)
    a.append(start + chain.extend(tip, [2] * mine, 1))
    b.append(start + chain.extend(tip, [3] * theirs, 1))
    common = a.common(b.marks())
    assert common <= shared
    assert shared - common <= max(theirs, 1) + shared // 2 + 1 if shared else common == 0
    if theirs == 0:
        assert common == shared


def test_chain_values_depend_on_every_id_and_on_the_codec() -> None:
    start = chain.genesis("export")
    whole = chain.extend(start, [1, 2, 3], 1)
    assert whole == chain.extend(start, [1], 1) + chain.extend(whole[0], [2, 3], 1)
    assert len({tuple(whole), tuple(chain.extend(start, [1, 2, 4], 1)), tuple(chain.extend(start, [1, 2, 3], 2))}) == 3
    assert chain.extend(chain.genesis("another"), [1], 1) != whole[:1]


def test_a_schedule_is_a_function_of_seed_and_position_and_uses_every_exit() -> None:
    drawn = [target_exit(ExitSchedule(7), position, 3) for position in range(300)]
    assert drawn == [target_exit(ExitSchedule(7), position, 3) for position in range(300)]
    assert drawn != [target_exit(ExitSchedule(8), position, 3) for position in range(300)]
    assert all(70 < drawn.count(exit_) < 130 for exit_ in (1, 2, 3))
    assert target_exit(FixedExit(2), 5, 3) == 2


def asked(want: int, drafts: tuple[int, ...] = (), **options: Any) -> Question:
    return Question(1, want, drafts, **options)


def test_drafts_are_accepted_up_to_the_first_that_differs_and_one_more_token_is_decided() -> None:
    logits = np.zeros((3, 8), np.float32)
    logits[0, 4] = logits[1, 5] = logits[2, 6] = 2
    assert decide(logits[:1], asked(1), 9, 1).tokens == (4,)
    assert decide(logits, asked(3, (4, 5)), 9, 1).tokens == (4, 5, 6)
    assert decide(logits, asked(3, (4, 1)), 9, 1).tokens == (4, 5)
    assert decide(logits, asked(3, (1, 5)), 9, 1).tokens == (4,)
    assert decide(logits[:1], asked(1), 9, 1).confidence[0] == pytest.approx(np.exp(2) / (np.exp(2) + 7))


def test_log_probabilities_are_the_logits_own_before_temperature_and_penalties() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (1, 30)).astype(np.float32)
    expected = logits[0] - np.log(np.exp(logits[0].astype(np.float64)).sum())
    question = asked(1, logprobs=4, sampling=Sampling(2.0, seed=1), adjust=lambda row: row[::-1])
    decision = decide(logits, question, 5, 1)
    (entry,) = decision.logprobs
    assert entry.token == pytest.approx(expected[decision.tokens[0]], abs=1e-5)
    best = np.argsort(-expected)[:4]
    assert [token for token, _ in entry.top] == best.tolist()
    assert [value for _, value in entry.top] == pytest.approx(expected[best].tolist(), abs=1e-5)
    assert decide(logits, asked(1), 5, 1).logprobs == ()
    assert decide(logits, asked(1, logprobs=0), 5, 1).logprobs[0].top == ()


def test_logits_that_are_no_numbers_decide_nothing() -> None:
    for bad in (np.nan, np.inf):
        logits = np.zeros((1, 8), np.float32)
        logits[0, 3] = bad
        for sampling in (Sampling(), Sampling(1.0)):
            with pytest.raises(InternalError, match="are no numbers; export the bundle again"):
                decide(logits, asked(1, sampling=sampling), 5, 1)


def test_an_exit_is_sure_by_its_probabilities_alone() -> None:
    probabilities = np.array([0.7, 0.2, 0.1], np.float32)
    entropy = -float((probabilities * np.log(probabilities)).sum())
    edges = {"max_probability": (0.69, 0.71), "margin": (0.49, 0.51), "entropy": (entropy + 0.01, entropy - 0.01)}
    for statistic, (sure, unsure) in edges.items():
        assert is_sure(Rule(statistic, (sure,)), 1, probabilities)  # type: ignore[arg-type]
        assert not is_sure(Rule(statistic, (unsure,)), 1, probabilities)  # type: ignore[arg-type]


def test_every_exit_has_a_threshold_of_its_own_and_those_beyond_the_last_have_the_last() -> None:
    rule = Rule("margin", (0.9, 0.4))
    assert [rule.allows(exit_, 0.5) for exit_ in (1, 2, 3, 9)] == [False, True, True, True]
    logits = np.zeros((1, 8), np.float32)
    logits[0, 4] = 3
    assert [decide(logits, asked(1, rule=rule), 0, exit_).sure for exit_ in (1, 2)] == [False, True]


def test_an_exit_is_sure_only_if_it_is_at_every_token_that_it_decides() -> None:
    logits = np.zeros((2, 8), np.float32)
    logits[0, 4] = 9
    rule = Rule("max_probability", (0.9,))
    assert decide(logits[:1], asked(1, rule=rule), 0, 1).sure
    assert not decide(logits, asked(2, (4,), rule=rule), 0, 1).sure
    assert decide(logits, asked(2, (5,), rule=rule), 0, 1).sure, "a row behind a refused draft decides nothing"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"threshold": 1.5}, "the threshold of max_probability cannot be 1.5; give a number in 0..1"),
        ({"threshold": float("nan")}, "cannot be nan"),
        ({"threshold": -1, "statistic": "entropy"}, "give 0 nats or more"),
        ({"threshold": 0.5, "statistic": "mood"}, "statistic 'mood' is unknown; give one of max_probability, margin"),
        ({"threshold": [0.5, 1.5]}, "the threshold of max_probability cannot be 1.5"),
        ({"threshold": []}, "max_probability has no threshold; give a number in 0..1, or one for each exit"),
        ({}, "a confidence needs a threshold, or epsilon in its place"),
        ({"threshold": 0.5, "epsilon": 0.05}, "give one of the two"),
        ({"epsilon": 5.0}, "epsilon cannot be 5.0; give a share of tokens between 0 and 1"),
        ({"epsilon": 0.05, "statistic": "mood"}, "statistic 'mood' is unknown"),
        ({"epsilon": 0.05, "deepest": 2}, "a promise about the family's last exit; leave `deepest` out"),
    ],
)
def test_a_confidence_that_makes_no_sense_is_refused(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        ConfidenceExit(**bad)
