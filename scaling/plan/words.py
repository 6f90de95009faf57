"""How a plan's numbers and aims are written."""

import math

from scaling.plan.fleet import Objective


def aim(objective: Objective, of_pareto: Objective) -> str:
    """`least cost`; of the objective `pareto`, by which of the others the best is chosen."""
    if objective == "pareto":
        return f"{aim(of_pareto, of_pareto)} (of the Pareto set)"
    return "best quality" if objective == "quality" else f"least {objective}"


def plain(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def small(value: float, places: int = 0) -> str:
    """With so many decimals, or as many as two digits that are not zeros take."""
    digits = 1 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return f"{value:,.{max(places, digits if abs(value) < 1 else 0)}f}"


def span(first: int, last: int) -> str:
    """`2-3`, or `2` alone."""
    return f"{first}-{last}" if last > first else f"{first}"


def share(value: float) -> str:
    """In percent; what is not nothing is not shown as 0, nor what is not all as 100."""
    if 0 < value < 0.01:
        return "<1%"
    return ">99%" if 0.99 < value < 1 else f"{value:.0%}"
