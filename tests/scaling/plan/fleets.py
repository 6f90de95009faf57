"""Fleets for tests: the example that `plan-family init` writes, and small ones made in code."""

from collections.abc import Sequence

from scaling.plan.fleet import Fleet, Goals, Link, Tier, Traffic, Training, Trunk
from scaling.plan.hardware import Hardware


def machine(name: str, tflops: float, gb_s: float, memory_gb: float, price: float = 1000.0) -> Hardware:
    """A machine whose speed at every precision is the same."""
    flops = dict.fromkeys(("f32", "int8", "int4"), tflops * 1e12)
    return Hardware(name, "own", "cpu", flops, gb_s * 1e9, memory_gb * 1e9, price, 20.0, 5.0, "measured", "a test")


def small_fleet(
    machines: Sequence[Hardware] = (
        machine("a", 0.01, 5, 0.02),
        machine("b", 0.1, 20, 0.5),
        machine("c", 1.0, 200, 8),
    ),
    links: Sequence[Link] | None = None,
    goals: Goals | None = None,
    objective: str = "cost",
    decided: Sequence[float] = (0.5, 0.3, 0.2),
    compute: float = 1e13,
    layers: int = 8,
) -> Fleet:
    """Up to four tiers, a tiny trunk of 8 layers in three widths, a hundred users."""
    names = ("a", "b", "c", "d")[: len(machines)]
    tiers = [
        Tier(name, hardware, price_per_hour=1.0 + i)
        for i, (name, hardware) in enumerate(zip(names, machines, strict=True))
    ]
    tiers[0] = Tier(names[0], machines[0], 100, price_per_hour=0.0)
    given = links if links is not None else [Link(0.01 * (i + 1), 1e7, 1e7, 0.001) for i in range(len(machines) - 1)]
    trunk = Trunk(widths=(32, 48, 64), layers=(layers,), head_dim=16, vocab_size=512, context=128)
    return Fleet(
        name="small",
        tiers=tuple(tiers),
        links=tuple(given),
        traffic=Traffic(5.0, 50, 20, peak=2.0, decided=dict(zip(names, decided, strict=False))),
        goals=goals or Goals(),
        training=Training(compute_flops=compute, trunk=trunk),
        objective=objective,  # type: ignore[arg-type]
    )
