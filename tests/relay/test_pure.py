"""The pure pieces on their own: cutting, logs, chain values, policies, decisions, the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import chain
from relay.decide import decide
from relay.log import History, RowLog, pieces
from relay.policy import ExitSchedule, FixedExit, target_exit


@given(start=st.integers(0, 50), count=st.integers(0, 200), most=st.integers(1, 40), last=st.integers(0, 20))
def test_pieces_cover_everything_once_and_keep_the_last_together(start: int, count: int, most: int, last: int) -> None:
    last = min(last, count)
    end = start + count
    cut = list(pieces(start, end, most, last))
    assert [i for a, b in cut for i in range(a, b)] == list(range(start, end))
    assert all(0 < b - a <= max(most, last) for a, b in cut)
    assert not cut or cut[-1][1] - cut[-1][0] >= last


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 90)), max_size=20))
def test_a_row_log_is_a_list_of_rows(steps: list[tuple[int, int]]) -> None:
    log, model = RowLog(2), np.empty((0, 2), np.float32)
    rng = np.random.default_rng(0)
    for keep, fresh in steps:
        log.truncate(keep)
        rows = rng.standard_normal((fresh, 2), dtype=np.float32)
        log.append(rows)
        model = np.concatenate([model[:keep], rows])
        assert np.array_equal(log.rows(0, len(log)), model)


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


def test_drafts_are_accepted_up_to_the_first_that_differs_and_one_more_token_is_decided() -> None:
    logits = np.zeros((3, 8), np.float32)
    logits[0, 4] = logits[1, 5] = logits[2, 6] = 2
    assert decide(logits[:1], ()).tokens == (4,)
    assert decide(logits, (4, 5)).tokens == (4, 5, 6)
    assert decide(logits, (4, 1)).tokens == (4, 5)
    assert decide(logits, (1, 5)).tokens == (4,)
    assert decide(logits[:1], ()).confidence[0] == pytest.approx(np.exp(2) / (np.exp(2) + 7))
