"""Where a text ends, and what of it may be shown meanwhile."""

from hypothesis import given
from hypothesis import strategies as st

from relay.node.stops import StopStrings

letters = st.text("ab\n", max_size=12)


@given(pieces=st.lists(letters, max_size=12), stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_text_is_shown_up_to_its_first_stop_string_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    watch = StopStrings(stops)
    shown = ""
    for i, piece in enumerate(pieces):
        shown += watch.feed(piece, last=i == len(pieces) - 1)
        come = "".join(pieces[: i + 1])
        assert come.startswith(shown)
        hits = [(come.find(stop), stop) for stop in stops if stop in come]
        assert (watch.found is not None) == bool(hits)
        if hits:
            assert shown == come[: min(hits)[0]]
            assert watch.found in {stop for at, stop in hits if at == min(hits)[0]}
            return
        held = come[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops), "nothing is held back without need"
    assert shown == "".join(pieces)
