"""What was measured of relays, and what the planner says of them today, must not drift apart."""

import pytest

from benchmarks.plan.configurations import CONFIGURATIONS, policy_name
from benchmarks.plan_accuracy import QUANTITIES, measure, stored

MEDIAN, WORST_DECILE = 0.10, 0.25


def test_what_is_stored_is_what_was_to_be_run() -> None:
    assert sorted(stored()) == sorted(c.name for c in CONFIGURATIONS)


def test_the_configurations_are_many_and_differ_in_everything() -> None:
    assert len(CONFIGURATIONS) >= 24
    assert sum(c.held_out for c in CONFIGURATIONS) * 3 >= len(CONFIGURATIONS)
    assert {c.precision for c in CONFIGURATIONS} == {"int4", "f32"}
    assert {c.codec for c in CONFIGURATIONS} == {"f32", "bf16", "int8", "int4"}
    assert {1, 2, 4, 8} <= {c.sessions for c in CONFIGURATIONS}
    links = [way for c in CONFIGURATIONS for way in c.ways]
    assert (min(way.rtt_ms for way in links), max(way.rtt_ms for way in links)) == (2, 100)
    assert (min(way.mbps for way in links), max(way.mbps for way in links)) == (2, 100)
    assert {"exit1", "exit2", "exit3", "eps0.1", "spec2>3"} <= {policy_name(c.policy) for c in CONFIGURATIONS}


@pytest.mark.parametrize("part", ["quantities", "held_out", "rest"])
def test_predictions_are_as_near_as_is_promised(part: str) -> None:
    found = measure()[part]
    for quantity in QUANTITIES:
        assert found[quantity]["median_error"] <= MEDIAN, quantity
        assert found[quantity]["worst_decile_error"] <= WORST_DECILE, quantity
