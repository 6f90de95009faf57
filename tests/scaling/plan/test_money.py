from dataclasses import replace

import numpy as np
import pytest

from scaling.plan.hardware import hardware
from scaling.plan.money import kwh_per_million, per_million, rates, tier_cost, unpriced
from tests.scaling.plan.fleets import small_fleet


def test_a_purchase_is_written_off_and_electricity_comes_on_top() -> None:
    box = hardware("T4")
    cost = tier_cost(rates(box, life_years=2, kwh=0.2, overhead=1.5), machines=4, busy=0.5)
    assert cost.machines_per_hour == pytest.approx(4 * 2000 / (2 * 8760))
    assert cost.power_w == pytest.approx(4 * 1.5 * (10 + 0.5 * 60))
    assert cost.per_hour == pytest.approx(cost.machines_per_hour + 0.24 * 0.2)


def test_rent_has_the_electricity_but_the_energy_still_counts() -> None:
    cost = tier_cost(rates(hardware("T4"), price_per_hour=0.5), machines=2, busy=1.0)
    assert cost.per_hour == 1.0
    assert cost.power_w == 140
    assert cost.per_million(1000) == pytest.approx(1.0 / 3.6)
    assert cost.kwh_per_million(1000) == pytest.approx(140 * 1000 / 3.6e6)


def test_a_phone_that_is_on_for_its_owner_costs_only_what_computing_takes() -> None:
    phone = rates(hardware("Apple A17 Pro"), price_per_hour=0.0)
    assert tier_cost(phone, machines=1000, busy=0.0, on=0.0).power_w == 0
    assert tier_cost(phone, machines=1000, busy=0.01, on=0.0).power_w == pytest.approx(1000 * 0.01 * 4.5)


def test_a_shared_tier_without_a_price_is_named() -> None:
    assert list(unpriced(small_fleet())) == []
    first, second, *others = small_fleet().tiers
    free = replace(
        second, price_per_hour=None, hardware=replace(second.hardware, price_usd=0.0, busy_w=0.0, idle_w=0.0)
    )
    told = [finding.text for finding in unpriced(replace(small_fleet(), tiers=(first, free, *others)))]
    assert [free.name in text for text in told] == [True, True] and "counts as free" in told[0]


def test_tiers_add_up_and_arrays_give_what_their_elements_give() -> None:
    counts = np.array([1.0, 2.0, 8.0])
    tiers = {"edge": tier_cost(rates(hardware("T4")), counts, 0.3), "cloud": tier_cost(rates(hardware("L4")), 1.0, 0.6)}
    money, energy = np.asarray(per_million(tiers, 500)), np.asarray(kwh_per_million(tiers, 500))
    for i, count in enumerate(counts):
        one = {"edge": tier_cost(rates(hardware("T4")), count, 0.3), "cloud": tiers["cloud"]}
        assert money[i] == pytest.approx(per_million(one, 500))
        assert energy[i] == pytest.approx(kwh_per_million(one, 500))
    assert (np.diff(money) > 0).all() and (np.diff(energy) > 0).all()
