"""Links by name, and traces from files."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.net import links
from benchmarks.net.links import MAHIMAHI, NAMED, PACKET_BYTES, PENSIEVE, UnknownLinkError, link, opportunities, rates


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", list(NAMED))
def test_every_named_link_says_where_its_figures_are_from(name: str) -> None:
    found = link(name)
    assert found.name == name and found.source
    assert ("assumed" in found.source) or not (found.jitter_ms or found.loss)


def test_a_round_trip_is_a_name_too() -> None:
    found = link("12.5ms")
    assert (found.rtt_ms, found.jitter_ms, found.loss) == (12.5, 0, 0)
    up, down = found.schedules(0)
    assert up.send(0.0, 1).at_s == down.send(0.0, 1).at_s == pytest.approx(0.00625, abs=1e-6)


def test_both_directions_and_every_link_have_noise_of_their_own() -> None:
    schedules = [*link("4g").schedules(0), *link("5g").schedules(0), *link("4g").schedules(1)]
    jitter = {round(schedule.send(1.0, 1).at_s, 9) for schedule in schedules}
    assert len(jitter) == len(schedules)


def test_a_recorded_link_has_its_two_directions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    write(tmp_path / MAHIMAHI / "walk.up", "10\n")
    write(tmp_path / MAHIMAHI / "walk.down", "5\n10\n")
    found = link("walk")
    assert found.down.mean_bps == pytest.approx(2 * found.up.mean_bps)
    assert found.up.mean_bps == pytest.approx(PACKET_BYTES * 8 / 0.01)


def test_a_trace_of_rates_is_used_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    write(tmp_path / PENSIEVE / "cooked_traces" / "tram", "0.0 9.0\n1.0 4.0\n3.0 1.0\n")
    found = link("tram")
    assert found.up is found.down
    assert found.up.by(1.0) == pytest.approx(4e6 / 8)  # a line's rate holds up to its time
    assert found.up.by(3.0) == pytest.approx(6e6 / 8)
    assert found.up.by(4.0) == pytest.approx(10e6 / 8)  # from the beginning again


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(any))
def test_every_opportunity_passes_one_packet_by_its_millisecond(tmp_path: Path, given_: list[int]) -> None:
    milliseconds = sorted(given_)
    capacity = opportunities(write(tmp_path / "t", "".join(f"{ms}\n" for ms in milliseconds)))
    assert capacity.times_s[-1] == pytest.approx(milliseconds[-1] / 1e3)
    for number, ms in enumerate(milliseconds, 1):
        assert capacity.when(number * PACKET_BYTES) <= max(1, ms) / 1e3 + 1e-9
        assert capacity.when(number * PACKET_BYTES) >= (max(1, ms) - 1) / 1e3 - 1e-9


def test_a_link_that_is_not_there_is_told_with_those_that_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAMILIAL_DATA", str(tmp_path))
    with pytest.raises(UnknownLinkError, match=r"'5h' is no link; give one of lan, .*30ms.*FAMILIAL_DATA"):
        link("5h")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\nx\n", r"t:2: expected 1 numbers, got 'x'"),
        ("1 2\n", r"t:1: expected 1 numbers"),
        ("1.5\n", r"t:1: expected milliseconds, whole and in order"),
        ("7\n3\n", r"t:2: expected milliseconds, whole and in order"),
        ("", r"t: no trace of a link"),
    ],
)
def test_what_is_no_trace_of_packets_is_refused_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UnknownLinkError, match=problem):
        opportunities(write(tmp_path / "t", text))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0 1\n1\n", r"t:2: expected 2 numbers"),
        ("0 1\n2 1\n1 1\n", r"t:3: expected seconds in order"),
        ("0 1\n1 -1\n", r"t:2: .*a rate from 0 on"),
        ("0 1\n1 0\n", r"t: no trace of a link: .*more than 0"),
        ("0 1\n", r"t: no trace of a link"),
    ],
)
def test_what_is_no_trace_of_rates_is_refused_by_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UnknownLinkError, match=problem):
        rates(write(tmp_path / "t", text))


@pytest.mark.parametrize("name", links.TRACES)
def test_the_traces_of_the_data_sets_are_links(name: str) -> None:
    try:
        report.data(f"{MAHIMAHI}/SOURCE.txt")
    except report.MissingInputError as error:
        pytest.skip(str(error))
    found = link(name)
    assert 1e5 < found.up.mean_bps < 1e8 and 1e5 < found.down.mean_bps < 1e8
    assert found.rtt_ms > 0
