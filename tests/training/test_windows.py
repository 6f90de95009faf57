from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from training.data.tokens import Header, TokenFile
from training.data.windows import BLOCK, Windows
from training.errors import DataError


def part(first: int, tokens: int, name: str = "a.txt") -> TokenFile:
    """Tokens that say where they stand: first, first + 1, ..."""
    ids = np.arange(first, first + tokens, dtype=np.uint32)
    header = Header(1, "0" * 64, "0" * 64, "<u4", 1, tokens, tokens, first + tokens - 1)
    return TokenFile(name, header, ids)


def firsts(windows: Windows, ks: Sequence[int]) -> list[int]:
    return [int(windows[k]["input_ids"][0]) for k in ks]


def test_the_order_is_decided_by_the_seed_alone_and_a_longer_run_begins_like_a_shorter_one() -> None:
    parts, weights = [part(0, 5000), part(5000, 700)], [3, 1]
    whole = Windows(parts, weights, window=10, length=1000, seed=1)
    again = Windows(parts, weights, window=10, length=1000, seed=1)
    longer = Windows(parts, weights, window=10, length=5000, seed=1)
    other = Windows(parts, weights, window=10, length=1000, seed=2)
    backwards = firsts(again, range(999, -1, -1))[::-1]  # whatever was asked before
    assert firsts(whole, range(1000)) == backwards == firsts(longer, range(1000)) != firsts(other, range(1000))


def test_an_epoch_has_every_window_once_and_the_next_another_order_and_other_cuts() -> None:
    windows = Windows([part(0, 997)], [1], window=10, length=3 * 99, seed=5)
    epochs = [[windows[k]["input_ids"] for k in range(99 * e, 99 * (e + 1))] for e in range(3)]
    first = [int(w[0]) for w in epochs[0]]
    assert sorted(first) == list(range(0, 990, 10)) != first
    for epoch in epochs:
        seen = np.concatenate(epoch)
        assert len(np.unique(seen)) == 990
        for window in epoch:  # text in its order; after the last token comes the first
            assert set(np.diff(window).tolist()) <= {1, -996}
    cuts = [{int(w[0]) % 10 for w in epoch if w[0] < w[-1]} for epoch in epochs]
    assert cuts[0] == {0} and all(len(cut) <= 2 for cut in cuts) and cuts[1] != cuts[2]


def test_sources_are_mixed_by_weight_in_every_stretch() -> None:
    parts = [part(0, 50_000), part(50_000, 300), part(60_000, 9_000)]
    windows = Windows(parts, [5, 0.1, 2], window=10, length=20 * BLOCK + 100, seed=3)
    for block in (0, 7, 19):
        sources = Counter(windows.place(k)[0] for k in range(block * BLOCK, (block + 1) * BLOCK))
        assert [abs(sources[s] - BLOCK * w / 7.1) < 1 for s, w in enumerate((5, 0.1, 2))] == [True] * 3
    counts = Counter(windows.place(k)[0] for k in range(len(windows)))
    uses = windows.uses()
    assert [use.tokens for use in uses] == [10 * counts[s] for s in range(3)]
    assert uses[1].passes == round(counts[1] / 30, 3) and uses[0].passes < 1 < uses[2].passes
    places = [windows.place(k) for k in range(len(windows))]
    for source in range(3):  # each source's windows are counted through
        assert [ordinal for s, ordinal in places if s == source] == list(range(counts[source]))


def test_no_source_is_left_out_or_overdrawn_by_extreme_weights() -> None:
    parts = [part(0, 100), part(100, 100)]
    windows = Windows(parts, [1, 1e-4], window=10, length=100 * BLOCK, seed=0)
    much, little = (use.tokens // 10 for use in windows.uses())
    assert much + little == 100 * BLOCK and 2 <= little <= 3  # 2.56 are its share


@pytest.mark.parametrize("k", [-1, 5])
def test_only_windows_of_the_run_are_given(k: int) -> None:
    with pytest.raises(IndexError):
        Windows([part(0, 100)], [1], window=10, length=5, seed=0)[k]


def test_a_source_shorter_than_a_window_is_named() -> None:
    with pytest.raises(DataError, match=r"short\.txt: 9 tokens, fewer than one window of 10"):
        Windows([part(0, 100), part(0, 9, "short.txt")], [1, 1], window=10, length=5, seed=0)


def test_a_second_pass_has_the_windows_of_the_first_in_another_order() -> None:
    parts = [part(0, 997), part(5000, 300, "other.txt")]
    once = Windows(parts, [3, 1], window=10, length=70, seed=5)
    thrice = Windows(parts, [3, 1], window=10, length=70, seed=5, passes=3)
    ids = [tuple(thrice[k]["input_ids"].tolist()) for k in range(len(thrice))]
    assert len(thrice) == 210 and ids[:70] == [tuple(once[k]["input_ids"].tolist()) for k in range(70)]
    assert sorted(ids[:70]) == sorted(ids[70:140]) == sorted(ids[140:])
    assert ids[:70] != ids[70:140] != ids[140:] and ids[100] == tuple(thrice[100]["input_ids"].tolist())
    assert [use.tokens for use in thrice.uses()] == [3 * use.tokens for use in once.uses()]
