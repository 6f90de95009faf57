"""What a deployment costs: money and energy per hour and per million tokens, by tier.

A machine costs what its hour is rented for, or its purchase written off over its life; electricity comes on top unless
the rent has it. Power is that of a machine at rest and, in proportion to the share of time in which it computes, more:
the line that servers follow about (Barroso and Hölzle, 2007, "The case for energy-proportional computing"). Arithmetic
is by element.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scaling.findings import Finding, warning
from scaling.plan.cost import Number
from scaling.plan.fleet import Fleet
from scaling.plan.hardware import Hardware

LIFE_YEARS = 3.0
"""Over which a purchase is written off."""
HOURS_PER_YEAR = 365 * 24
PER_HOUR = "USD/h"
"""All money is in US dollars: the purchases of the hardware table, electricity, and so a fleet's own prices."""
USD_PER_KWH = 0.15
OVERHEAD = 1.0
"""Power drawn in all over the machine's own (PUE); about 1.1 to 1.6 in data centres."""
MILLION = 1e6
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Rates:
    """What a machine's hour costs."""

    hour: Number
    """USD per machine and hour, electricity apart unless `power_paid`."""
    idle_w: Number
    busy_w: Number
    kwh: Number = USD_PER_KWH
    """USD per kWh."""
    overhead: Number = OVERHEAD
    power_paid: bool = False
    """Whether the hour's price includes electricity."""


@dataclass(frozen=True)
class TierCost:
    """What one tier costs, all machines together."""

    machines_per_hour: Number
    """USD per hour for the machines, used or not."""
    power_w: Number
    """Mean power, overhead included."""
    power_per_hour: Number
    """USD per hour for electricity."""

    @property
    def per_hour(self) -> Number:
        """USD per hour."""
        return self.machines_per_hour + self.power_per_hour

    def per_million(self, tokens_per_s: Number) -> Number:
        """USD per million tokens of the deployment."""
        return self.per_hour / 3600 / tokens_per_s * MILLION

    def kwh_per_million(self, tokens_per_s: Number) -> Number:
        """Energy in kWh per million tokens of the deployment."""
        return self.power_w / tokens_per_s * MILLION / JOULES_PER_KWH


def unpriced(fleet: Fleet) -> Iterator[Finding]:
    """Shared tiers that seem to cost nothing, or to draw no power, because nobody said what."""
    for tier in fleet.tiers[1:]:
        if tier.price_per_hour is None and not tier.hardware.price_usd:
            told = f"{tier.name} has no price_per_hour, and its hardware no price_usd: it counts as free"
            yield warning("no-price", told)
        if not tier.hardware.busy_w:
            yield warning("no-power", f"{tier.name}'s hardware has no busy_w: it counts as drawing no power")


def rates(
    hardware: Hardware,
    price_per_hour: float | None = None,
    life_years: float = LIFE_YEARS,
    kwh: float = USD_PER_KWH,
    overhead: float = OVERHEAD,
) -> Rates:
    """Of a machine.

    Args:
        hardware: the machine.
        price_per_hour: its rent, electricity included; None: its purchase written off, electricity on top.
        life_years: over which the purchase is written off.
        kwh: USD per kWh.
        overhead: power drawn in all over the machine's own.
    """
    owned = price_per_hour is None
    hour = hardware.price_usd / (life_years * HOURS_PER_YEAR) if price_per_hour is None else price_per_hour
    return Rates(hour, hardware.idle_w, hardware.busy_w, kwh, overhead, power_paid=not owned)


def tier_cost(rate: Rates, machines: Number, busy: Number, on: Number = 1.0) -> TierCost:
    """What a tier costs.

    Args:
        rate: of one machine.
        machines: how many there are, for the peak.
        busy: share of the time in which a machine computes, the mean over the day.
        on: share of machines' resting power that counts as the deployment's: 1 for servers, 0 for phones, which are on
            for their owners.
    """
    power = machines * rate.overhead * (on * rate.idle_w + busy * (rate.busy_w - rate.idle_w))
    paid = 0.0 if rate.power_paid else power / 1000 * rate.kwh
    return TierCost(machines * rate.hour, power, paid)


def per_million(tiers: Mapping[str, TierCost], tokens_per_s: Number) -> Number:
    """USD per million tokens of the whole deployment."""
    return sum((tier.per_million(tokens_per_s) for tier in tiers.values()), start=0.0)


def kwh_per_million(tiers: Mapping[str, TierCost], tokens_per_s: Number) -> Number:
    """Energy in kWh per million tokens of the whole deployment."""
    return sum((tier.kwh_per_million(tokens_per_s) for tier in tiers.values()), start=0.0)
